//! Network namespaces without names: they live as long as a descriptor is open, so nothing is ever left behind.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    thread,
};

/// A network namespace. It goes when this value and the last process in it are gone.
#[derive(Debug)]
pub struct NetNs(File);

impl NetNs {
    /// Makes a namespace with its loopback interface up.
    pub fn new() -> io::Result<Self> {
        let ns = thread::spawn(|| {
            // SAFETY: unshare takes no pointer; it changes only this thread, which ends right after.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
                return Err(io::Error::last_os_error());
            }
            super::Netlink::open()?.set_up("lo", true)?;
            File::open("/proc/thread-self/ns/net")
        });
        ns.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace failed"))).map(Self)
    }

    /// Runs a closure on a thread inside the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let fd = self.as_raw_fd();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(fd)?;
                f()
            });
            inside.join().unwrap_or_else(|_| Err(io::Error::other("a thread in a namespace failed")))
        })
    }

    /// Starts a thread that stays inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> thread::JoinHandle<io::Result<T>> {
        let file = self.0.try_clone();
        thread::spawn(move || {
            enter(file?.as_raw_fd())?;
            f()
        })
    }

    /// Makes a command's process run inside the namespace, and end when this process ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and makes only system calls.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                enter(fd)
            });
        }
        command
    }

    #[must_use]
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn enter(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns takes no pointer; `fd` is open.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether this process may make network namespaces.
#[must_use]
pub fn can_make_namespaces() -> bool {
    NetNs::new().is_ok()
}

/// Runs this program again, with the same arguments, as root of a new user namespace, and returns its exit code.
/// Works without privileges where the kernel allows user namespaces.
pub fn become_root_in_user_namespace() -> io::Result<i32> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    // SAFETY: getuid and getgid can't fail and take nothing.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    // SAFETY: the closure runs between fork and exec, in a single-threaded child; it makes system calls and small
    // writes to /proc.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS) < 0 {
                return Err(io::Error::last_os_error());
            }
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        });
    }
    command.env("AEGISRAY_IN_USER_NAMESPACE", "1");
    Ok(command.status()?.code().unwrap_or(1))
}
