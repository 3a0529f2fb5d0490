//! Output that nobody reads any more: `| head -1` is no fault of anybody's.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::host;

/// A print found its reader gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Does the work of a command. When its output is closed meanwhile the process ends quietly, once all that has to be undone is undone:
/// by the signal that is for this, which is not in force from the start since sockets would raise it, too.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_closed_output(panic.payload()) {
            CLOSED.store(true, Ordering::Relaxed);
        } else if !CLOSED.load(Ordering::Relaxed) {
            report(panic);
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(_) if CLOSED.load(Ordering::Relaxed) => host::end_by_closed_pipe(),
        Err(other) => panic::resume_unwind(other),
    }
}

/// Whether this is what `print!` and `eprint!` panic with there.
fn is_closed_output(payload: &dyn Any) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let broken = std::io::Error::from_raw_os_error(libc::EPIPE).to_string();
    text.is_some_and(|text| text.starts_with("failed printing to std") && text.ends_with(&broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_output_is_one() {
        let is = |text: &str| is_closed_output(&text.to_owned());
        assert!(is("failed printing to stdout: Broken pipe (os error 32)"));
        assert!(is("failed printing to stderr: Broken pipe (os error 32)"));
        assert!(!is("failed printing to stdout: No space left on device (os error 28)"));
        assert!(!is("Broken pipe (os error 32)") && !is_closed_output(&7));
    }
}
