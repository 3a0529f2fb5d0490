//! A directory with the files of a node, made all or not at all.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};

use crate::{
    config::Config,
    host,
    identity::keyfile::{self, KeyFileError},
};

/// The file that makes a directory a node's: it comes last.
pub(super) const CONFIG: &str = "peer.yaml";
/// Where the files are made. It is there while they are, and after an attempt that was ended in the middle; what has the same file in it
/// and beside it is of that attempt.
const WORKSHOP: &str = ".aegisray-setup";

/// The files of a node, [`CONFIG`] among them.
#[derive(Default)]
pub(super) struct Files(Vec<(&'static str, Vec<u8>, bool)>);

impl Files {
    pub fn secret(&mut self, name: &'static str, content: impl Into<Vec<u8>>) {
        self.0.push((name, content.into(), true));
    }

    pub fn public(&mut self, name: &'static str, content: impl Into<Vec<u8>>) {
        self.0.push((name, content.into(), false));
    }
}

/// Asked before each thing that is done in a directory: a test ends the work there.
type Before<'a> = &'a mut dyn FnMut(&Path) -> io::Result<()>;

/// Whether there is room for a node in `dir`: it has none, and nothing that would be overwritten. What an earlier attempt left that was
/// ended in the middle is no hindrance.
pub(super) fn check(dir: &Path, names: &[&str]) -> anyhow::Result<()> {
    let workshop = dir.join(WORKSHOP);
    for name in std::iter::once(&CONFIG).chain(names) {
        let path = dir.join(name);
        if fs::symlink_metadata(&path).is_err() || (*name != CONFIG && is_one(&path, &workshop.join(name))) {
            continue;
        }
        if *name == CONFIG {
            bail!(
                "{} exists already: there is a node in this directory. Nothing was changed; choose another --dir, or remove the directory \
                 first if that node is not needed any more",
                path.display()
            );
        }
        bail!("{} exists already, and may be of use: choose another --dir, or move it away first", path.display());
    }
    Ok(())
}

/// Makes the files, after it has seen that a node can run from them; returns where the configuration is. When it fails, the directory is
/// as it was; when it is ended in the middle there is no configuration, and the next attempt takes away what is left.
pub(super) fn make(dir: &Path, files: &Files) -> anyhow::Result<PathBuf> {
    make_in_steps(dir, files, &mut |_| Ok(()))
}

fn make_in_steps(dir: &Path, files: &Files, before: Before<'_>) -> anyhow::Result<PathBuf> {
    let names: Vec<&str> = files.0.iter().map(|(name, ..)| *name).collect();
    let made = make_folders(dir).map_err(|e| cannot(dir, &e))?;
    let outcome = open(dir).and_then(|lock| {
        check(dir, &names)?;
        clear(dir).map_err(|e| cannot(&dir.join(WORKSHOP), &e))?;
        let outcome = build(dir, files, before);
        if outcome.is_err() {
            let _ = clear(dir);
        }
        drop(lock);
        outcome
    });
    if outcome.is_err() {
        // Those that are empty: all, unless somebody else has put something there.
        made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    outcome
}

/// The directories on the way that are made, outermost first.
fn make_folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<PathBuf> =
        dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).map(Path::to_owned).collect();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    Ok(missing.into_iter().rev().collect())
}

/// The directory, for this process alone.
fn open(dir: &Path) -> anyhow::Result<File> {
    let file = File::open(dir).map_err(|e| cannot(dir, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another `aegisray init` or `aegisray join` is at work in {}: wait until it is done", dir.display())
        }
        Err(TryLockError::Error(e)) => Err(cannot(dir, &e)),
    }
}

fn build(dir: &Path, files: &Files, before: Before<'_>) -> anyhow::Result<PathBuf> {
    let workshop = dir.join(WORKSHOP);
    let mut step = |path: &Path, work: &dyn Fn(&Path) -> io::Result<()>| {
        before(path).and_then(|()| work(path)).map_err(|e| cannot(path, &e))
    };
    step(&workshop, &|path| fs::DirBuilder::new().mode(0o700).create(path))?;
    for (name, content, is_secret) in &files.0 {
        step(&workshop.join(name), &|path| {
            keyfile::write_secret(path, content).map_err(KeyFileError::into_io)?;
            if *is_secret { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(0o644)) }
        })?;
    }
    Config::load(&workshop.join(CONFIG)).map_err(|e| anyhow!("no node can run with that: {}: {}", e.key, e.message))?;
    step(&workshop, &|path| File::open(path)?.sync_all())?;
    // The configuration last, and nothing over what is there.
    let (last, others): (Vec<_>, Vec<_>) = files.0.iter().map(|(name, ..)| *name).partition(|name| *name == CONFIG);
    for name in others {
        step(&dir.join(name), &|path| fs::hard_link(workshop.join(name), path))?;
    }
    step(dir, &|path| File::open(path)?.sync_all())?;
    for name in last {
        step(&dir.join(name), &|path| fs::hard_link(workshop.join(name), path))?;
    }
    // From here on the node is there.
    let _ = fs::remove_dir_all(&workshop);
    let _ = File::open(dir).and_then(|d| d.sync_all());
    Ok(dir.join(CONFIG))
}

/// Takes away what an attempt has left: its workshop, and where it has not come to the end the files that it had put in place.
fn clear(dir: &Path) -> io::Result<()> {
    let workshop = dir.join(WORKSHOP);
    let entries = match fs::read_dir(&workshop) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    if !is_one(&dir.join(CONFIG), &workshop.join(CONFIG)) {
        for entry in entries {
            let placed = dir.join(entry.file_name());
            if is_one(&placed, &entry.path()) {
                fs::remove_file(placed)?;
            }
        }
    }
    fs::remove_dir_all(workshop)
}

/// Whether two paths are of one file.
fn is_one(a: &Path, b: &Path) -> bool {
    let file = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|m| (m.dev(), m.ino()));
    file(a).is_some() && file(a) == file(b)
}

fn cannot(path: &Path, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied if !host::is_root() => " (try again with sudo, or with another --dir)",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room, and give the same command again",
        _ => "",
    };
    anyhow!("cannot write {}: {error}{advice}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::Algorithm, identity::Identity};

    fn files() -> Files {
        let mut files = Files::default();
        let identity = Identity::generate(Algorithm::Ed25519).unwrap();
        files.secret("identity.pem", keyfile::identity_pem(&identity).unwrap().as_bytes());
        files.secret("network.key", "a-secret-of-more-than-twenty-letters");
        files.public("authority.pub", keyfile::pem_encode("PUBLIC KEY", identity.spki()));
        let network = "network:\n  name: home\n  secret_file: network.key\n  authority_file: authority.pub\n";
        files.secret(CONFIG, format!("name: a\n{network}identity:\n  key_file: identity.pem\nstate_dir: state\n"));
        files
    }

    /// The names in a directory.
    fn list(dir: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir)
            .map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        all.sort();
        all
    }

    fn ending_at(n: usize) -> impl FnMut(&Path) -> io::Result<()> {
        let mut left = n;
        move |_| {
            if left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            left -= 1;
            Ok(())
        }
    }

    const ALL: [&str; 4] = ["authority.pub", "identity.pem", "network.key", CONFIG];

    #[test]
    fn a_failure_at_any_step_leaves_nothing_and_an_end_at_any_step_can_be_repeated() {
        let base = std::env::temp_dir().join(format!("aegisray-setup-{}", std::process::id()));
        let mut steps = 0;
        loop {
            // An error: nothing is left, not even the directories.
            let dir = base.join("failed/etc");
            let made = make_in_steps(&dir, &files(), &mut ending_at(steps));
            if made.is_ok() {
                assert_eq!(list(&dir), ALL);
                break;
            }
            assert!(made.unwrap_err().to_string().contains("make room"));
            assert!(!base.exists(), "step {steps} leaves {:?}", list(&dir));
            // An end without any tidying, as by SIGKILL.
            let dir = base.join("ended");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("others"), "x").unwrap();
            build(&dir, &files(), &mut ending_at(steps)).unwrap_err();
            assert!(!dir.join(CONFIG).exists(), "step {steps}: the configuration comes last");
            check(&dir, &ALL).unwrap();
            make(&dir, &files()).unwrap();
            assert_eq!(list(&dir), ["authority.pub", "identity.pem", "network.key", "others", CONFIG], "step {steps}");
            Config::load(&dir.join(CONFIG)).unwrap();
            let mode = |name| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(ALL.map(mode), [0o644, 0o600, 0o600, 0o600]);
            fs::remove_dir_all(&base).unwrap();
            steps += 1;
        }
        assert!(steps > 8, "{steps}");
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let dir = std::env::temp_dir().join(format!("aegisray-setup-there-{}", std::process::id()));
        for name in ALL {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(name), "mine").unwrap();
            let error = make(&dir, &files()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} exists already")), "{error}");
            assert_eq!(list(&dir), [name], "nothing beside it");
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "mine");
            fs::remove_dir_all(&dir).unwrap();
        }
        // Another attempt at the same time.
        fs::create_dir_all(&dir).unwrap();
        let lock = open(&dir).unwrap();
        assert!(make(&dir, &files()).unwrap_err().to_string().contains("is at work in"));
        drop(lock);
        // One that came to its end and was ended before it had tidied up.
        make(&dir, &files()).unwrap();
        fs::create_dir(dir.join(WORKSHOP)).unwrap();
        for name in ALL {
            fs::hard_link(dir.join(name), dir.join(WORKSHOP).join(name)).unwrap();
        }
        assert!(make(&dir, &files()).unwrap_err().to_string().contains("there is a node in this directory"));
        clear(&dir).unwrap();
        assert_eq!(list(&dir), ALL);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_no_node_can_run_with_is_not_made() {
        let dir = std::env::temp_dir().join(format!("aegisray-setup-bad-{}", std::process::id()));
        let mut bad = files();
        bad.0.last_mut().unwrap().1.extend_from_slice(b"mesh:\n  cidr: 10.0.0.1/8\n");
        let error = make(&dir, &bad).unwrap_err().to_string();
        assert!(error.contains("mesh.cidr: host bits are set"), "{error}");
        assert!(!dir.exists());
    }
}
