//! The `aegisray` program.

/// Outside of a simulation it is the system's allocator and a look at a flag.
#[global_allocator]
static ALLOCATOR: aegisray::sim::Meter = aegisray::sim::Meter;

fn main() -> std::process::ExitCode {
    aegisray::cli::main()
}
