//! Floor 6: the newcomer's lab: a mesh of real daemons in network namespaces of this one machine, with real TUN
//! devices, NATs and packets. Nothing outside the namespaces is touched. The end-to-end tests use the same parts.

pub mod bench;
pub mod daemon;
pub mod load;
mod story;
mod subject;
pub mod topology;
pub mod traffic;
pub mod wire;

use std::{io, io::Write as _, path::PathBuf};

use clap::Args;

use crate::host;

/// Options of `aegisray lab`.
#[derive(Args, Debug, Clone, Default)]
pub struct Options {
    /// Keep configurations and logs in this directory instead of removing them
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Seconds for which throughput is measured
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
}

/// What the lab can't do without.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error(
        "this machine lets nobody but root make network namespaces: run `sudo aegisray lab` (or allow user namespaces: \
         sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    NoNamespaces,
    #[error(
        "/dev/net/tun can't be opened ({0}): load the module (`modprobe tun`), in a container add the device, and if it \
         is forbidden, run as root or let everybody open it (mode 0666, the usual one)"
    )]
    NoTun(#[source] io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Makes sure that namespaces and TUN devices can be made. Where only user namespaces allow that, the program runs
/// again inside one; its exit code is then returned.
fn prepare() -> Result<Option<i32>, LabError> {
    if !host::can_make_namespaces() {
        if std::env::var_os("AEGISRAY_IN_USER_NAMESPACE").is_some() {
            return Err(LabError::NoNamespaces);
        }
        return host::become_root_in_user_namespace().map(Some).map_err(|_| LabError::NoNamespaces);
    }
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(LabError::NoTun)?;
    Ok(None)
}

/// Runs the lab. Returns whether everything worked.
pub fn run(options: &Options) -> Result<bool, LabError> {
    if let Some(code) = prepare()? {
        return Ok(code == 0);
    }
    let dir = options
        .keep
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("aegisray-lab-{}", std::process::id())));
    std::fs::create_dir_all(&dir)?;
    clean_up_on_interrupt(options.keep.is_none().then(|| dir.clone()));
    let result = story::tell(&dir, options);
    if options.keep.is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    match result {
        Ok(()) => Ok(true),
        Err(story::Failed(why)) => {
            println!("\nThe lab failed: {why}");
            if options.keep.is_none() {
                println!("Run it again with `--keep DIR` to keep the daemons' logs.");
            }
            Ok(false)
        }
    }
}

/// The daemons die with this process and the namespaces with them; only the directory needs a hand.
fn clean_up_on_interrupt(dir: Option<PathBuf>) {
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            if let Some(dir) = dir {
                let _ = std::fs::remove_dir_all(dir);
            }
            println!("\ninterrupted; everything is cleaned up");
            let _ = io::stdout().flush();
            std::process::exit(130);
        });
    });
}
