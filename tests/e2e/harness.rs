//! A test runner that runs one test at a time, in a user namespace if need be.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aegisray::{
    host,
    lab::daemon::{Daemon, wait_for},
};

/// Of the generated form: others are stretched at each start.
pub const SECRET: &str = "YSBzZWNyZXQgZm9yIHRoZSBlbmQtdG8tZW5kIHRlc3Q";
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Test = (&'static str, fn());

/// The daemon under test; `AEGISRAY_BIN` names another one than that built along with the tests.
pub fn program() -> &'static Path {
    static OTHER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let other = OTHER.get_or_init(|| std::env::var_os("AEGISRAY_BIN").map(PathBuf::from));
    other.as_deref().unwrap_or(Path::new(env!("CARGO_BIN_EXE_aegisray")))
}

pub fn run(tests: &[Test]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    if args.iter().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !host::can_make_namespaces() {
        match host::become_root_in_user_namespace() {
            Ok(code) => return ExitCode::from(code as u8),
            Err(e) => {
                println!("the end-to-end tests need root or user namespaces: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    let chosen: Vec<&Test> = tests
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
        .collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, test) in &chosen {
        let started = std::time::Instant::now();
        let good = catch_unwind(AssertUnwindSafe(test)).is_ok();
        failed += usize::from(!good);
        let verdict = if good { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({:.1} s)", started.elapsed().as_secs_f64());
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out",
        chosen.len() - failed,
        tests.len() - chosen.len()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A directory that goes with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("aegisray-e2e-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

pub fn node(dir: &Dir, name: &str, more: &str) -> Daemon {
    let identity = "identity:\n  algorithm: ed25519\n";
    Daemon::configure(program(), &dir.0, name, SECRET, &format!("{identity}{more}")).unwrap()
}

pub fn bootstrap(to: &str) -> String {
    format!("peers:\n  bootstrap: [\"{to}:51900\"]\n  lan_discovery: false\n")
}

pub fn quiet() -> String {
    "peers:\n  lan_discovery: false\n".to_owned()
}

/// Waits for a condition on a daemon; shows its log if it doesn't come.
#[track_caller]
pub fn need<T>(daemon: &Daemon, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match wait_for(PATIENCE, condition) {
        Some(value) => value,
        None => {
            println!("{:#?}\n{:#?}\n{:#?}", daemon.status(), daemon.peers(), daemon.routes());
            panic!("{}: no {what}; its log ends:\n{}", daemon.name, daemon.log_tail())
        }
    }
}

pub fn need_route(from: &Daemon, to: &str) -> aegisray::node::RouteStatus {
    need(from, &format!("route to {to}"), || from.route_to(to))
}
