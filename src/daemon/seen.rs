//! First messages of handshakes that were read, kept so that none is answered again after a restart: who has recorded one
//! would learn from the answer that a node is here.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::{identity::keyfile, session::SEEN_GENERATION};

/// Bytes of an entry.
const ENTRY: usize = 8;

/// A file to which entries are added as they come: what was written is there after a crash of the process, and after a loss of
/// power but for the last few.
pub(super) struct SeenFile {
    path: PathBuf,
    file: Option<File>,
    entries: usize,
    has_failed: bool,
}

impl SeenFile {
    /// Opens the file in the state directory; returns what it holds, the oldest first.
    pub fn open(dir: &Path) -> (Self, Vec<u64>) {
        let path = dir.join("seen.bin");
        let kept = newest(&path);
        let mut file = Self { path, file: None, entries: 0, has_failed: false };
        file.rewrite(&kept);
        (file, kept)
    }

    fn rewrite(&mut self, kept: &[u64]) {
        let bytes: Vec<u8> = kept.iter().flat_map(|key| key.to_be_bytes()).collect();
        let written = keyfile::write_secret(&self.path, &bytes).map_err(io::Error::other);
        let opened = written.and_then(|()| File::options().append(true).open(&self.path));
        self.entries = kept.len();
        match opened {
            Ok(file) => self.file = Some(file),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.file = None;
        if !std::mem::replace(&mut self.has_failed, true) {
            let file = self.path.display();
            tracing::warn!(%file, %error, "after a restart, recorded first messages may be answered once more");
        }
    }

    /// Adds an entry.
    pub fn add(&mut self, key: u64) {
        if self.entries >= 2 * SEEN_GENERATION {
            self.rewrite(&newest(&self.path));
        }
        let Some(file) = &mut self.file else { return };
        match file.write_all(&key.to_be_bytes()) {
            Ok(()) => self.entries += 1,
            Err(error) => self.fail(&error),
        }
    }
}

/// The newest entries of a file, the oldest of them first; none where there is no file.
fn newest(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).unwrap_or_default();
    let all = bytes.as_chunks::<ENTRY>().0;
    all.iter().skip(all.len().saturating_sub(SEEN_GENERATION)).map(|entry| u64::from_be_bytes(*entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_there_again_and_the_file_stays_small() {
        let dir = std::env::temp_dir().join(format!("aegisray-seen-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (mut file, kept) = SeenFile::open(&dir);
        assert!(kept.is_empty());
        (0..3 * SEEN_GENERATION as u64).for_each(|key| file.add(key));
        drop(file);
        // A crash in the middle of an entry.
        let mut half = File::options().append(true).open(dir.join("seen.bin")).unwrap();
        half.write_all(&[1, 2, 3]).unwrap();
        let (_, kept) = SeenFile::open(&dir);
        let last = 3 * SEEN_GENERATION as u64;
        assert_eq!(kept, (last - SEEN_GENERATION as u64..last).collect::<Vec<_>>());
        assert!(fs::metadata(dir.join("seen.bin")).unwrap().len() <= 2 * (ENTRY * SEEN_GENERATION) as u64);
        fs::remove_dir_all(dir).unwrap();
    }
}
