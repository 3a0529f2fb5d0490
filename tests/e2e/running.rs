//! Programs of others that a test sets up, and that end with it.

use std::process::{Child, Command, Stdio};

pub struct Running(pub Child);

impl Running {
    /// What it prints goes nowhere.
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::start_heard(command)
    }

    pub fn start_heard(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Self(command.spawn().expect("the programs that tests need are installed (make setup-tests)"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
