//! Files of messages, from this directory and into it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{super::Failure, ask};
use crate::chatd::{Answer, PIECE, Request, request};

/// What the page shows as a picture, by how its name ends.
const KINDS: [(&str, &str); 5] =
    [("png", "image/png"), ("jpg", "image/jpeg"), ("jpeg", "image/jpeg"), ("gif", "image/gif"), ("webp", "image/webp")];
const AGAIN: Duration = Duration::from_millis(200);

fn failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Other(anyhow::anyhow!("{}: {error}", path.display()))
}

/// Hands files to the daemon; returns their numbers.
pub(super) fn hand_in(socket: &Path, paths: &[PathBuf]) -> Result<Vec<i64>, Failure> {
    paths.iter().map(|path| hand_in_one(socket, path)).collect()
}

fn hand_in_one(socket: &Path, path: &Path) -> Result<i64, Failure> {
    let file = File::open(path).map_err(|e| failure(path, &e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let kind = KINDS.iter().find(|(ending, _)| *ending == end).map_or("", |(_, kind)| kind).to_owned();
    let Answer::Upload { upload } = ask(socket, Request::FileNew { name, kind })? else {
        return Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program")));
    };
    let mut first = true;
    loop {
        let mut bytes = Vec::with_capacity(PIECE);
        (&file).take(PIECE as u64).read_to_end(&mut bytes).map_err(|e| failure(path, &e))?;
        if bytes.is_empty() && !first {
            return Ok(upload);
        }
        let last = bytes.len() < PIECE;
        ask(socket, Request::FilePut { upload, bytes: request::Bytes(bytes) })?;
        if last {
            return Ok(upload);
        }
        first = false;
    }
}

/// Writes the files of a message into a directory, as soon as they are here. Returns where they are.
pub(super) fn fetch(socket: &Path, platform: &str, message: &str, to: &Path) -> Result<Vec<PathBuf>, Failure> {
    let show = Request::Message { platform: platform.to_owned(), message: message.to_owned() };
    let files = match ask(socket, show)? {
        Answer::Messages { messages, .. } => messages.into_iter().flat_map(|m| m.files).collect(),
        _ => Vec::new(),
    };
    if files.is_empty() {
        return Err(Failure::Other(anyhow::anyhow!("this message has no files")));
    }
    files.iter().map(|file| fetch_one(socket, (platform, message), file, to)).collect()
}

fn fetch_one(
    socket: &Path,
    (platform, message): (&str, &str),
    file: &request::File,
    to: &Path,
) -> Result<PathBuf, Failure> {
    // Nothing that is there is overwritten, and nothing hides.
    let shown = file.name.trim_start_matches('.');
    let shown = if shown.is_empty() { "file" } else { shown };
    let name = |n: usize| if n == 0 { shown.to_owned() } else { format!("{n}-{shown}") };
    let path = (0..).map(|n| to.join(name(n))).find(|path| !path.exists()).unwrap_or_default();
    let part = to.join(format!(".{shown}.{}.part", &file.file[..8]));
    let mut out = File::create(&part).map_err(|e| failure(&part, &e))?;
    let mut said = usize::MAX;
    let mut piece = 0;
    while piece < file.pieces {
        let (platform, message, file) = (platform.to_owned(), message.to_owned(), file.file.clone());
        match ask(socket, Request::FileGet { platform, message, file, piece })? {
            Answer::Piece { bytes } => {
                out.write_all(&bytes.0).map_err(|e| failure(&part, &e))?;
                piece += 1;
            }
            Answer::Fetching { here, pieces } => {
                if said != here {
                    eprintln!("{here} of {pieces} pieces are here");
                    said = here;
                }
                thread::sleep(AGAIN);
            }
            _ => return Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program"))),
        }
    }
    out.sync_all().map_err(|e| failure(&part, &e))?;
    std::fs::rename(&part, &path).map_err(|e| failure(&path, &e))?;
    Ok(path)
}
