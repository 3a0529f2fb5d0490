//! The `aegisray` program.

fn main() -> std::process::ExitCode {
    aegisray::cli::main()
}
