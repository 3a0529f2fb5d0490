//! Files: handed in by who sends them, attached to messages, read by who may.

use super::{
    engine::{Engine, Refusal},
    payload::{self, MAX_FILES, MAX_PIECES, PIECE, fits, is_name, mark_of, open_piece, seal_piece},
    platform::Platform,
    request::{Answer, Bytes, File},
    store::{FileRow, Kept, Upload},
};
use crate::{
    chat::{Body, Id, Kind, Message, wire},
    crypto::sha256,
};

type Result<T> = std::result::Result<T, Refusal>;

/// Files up to this size are fetched before anybody asks.
const AT_ONCE: u64 = 8 << 20;

impl Engine {
    pub fn file_new(&mut self, name: &str, kind: String) -> Result<Answer> {
        self.keys.unlocked()?;
        if !is_name(name) || kind.len() > 255 {
            return Err(Refusal::no(format!("expected the name of a file, of at most 255 bytes, got `{name}`")));
        }
        let upload = Upload { name: name.to_owned(), kind, key: self.rng.bytes(), size: 0 };
        Ok(Answer::Upload { upload: self.store.add_upload(&upload)? })
    }

    pub fn file_put(&mut self, now_ms: u64, id: i64, bytes: Vec<u8>) -> Result<Answer> {
        let upload = self.upload(id)?;
        let i = self.store.upload_pieces(id)?.len();
        if i as u64 * PIECE as u64 != upload.size || bytes.len() > PIECE || (bytes.is_empty() && i > 0) {
            return Err(Refusal::no(format!("expected pieces of {PIECE} bytes, and less in the last one alone")));
        }
        if i >= MAX_PIECES {
            return Err(Refusal::no(format!("a file has at most {} MiB", (MAX_PIECES * PIECE) >> 20)));
        }
        let size = upload.size + bytes.len() as u64;
        let sealed = seal_piece(&upload.key, i, bytes);
        self.store.add_to_upload(id, (i, &sha256(&[&sealed]), &sealed), size, now_ms)?;
        Ok(Answer::Done)
    }

    fn upload(&self, id: i64) -> Result<Upload> {
        self.store.upload(id)?.ok_or_else(|| Refusal::no("no such file is being handed in (the daemon has restarted?)"))
    }

    /// The payload of a text with files that were handed in.
    pub fn with_files(&self, text: &str, uploads: &[i64]) -> Result<Vec<u8>> {
        if uploads.len() > MAX_FILES {
            return Err(Refusal::no(format!("at most {MAX_FILES} files go with a message")));
        }
        let files = uploads.iter().map(|id| {
            let upload = self.upload(*id)?;
            if self.store.upload_pieces(*id)?.is_empty() {
                return Err(Refusal::no(format!("nothing of {} was handed in", upload.name)));
            }
            Ok(wire::File { name: upload.name, kind: upload.kind, size: upload.size, key: upload.key.to_vec() })
        });
        Ok(payload::text(text, files.collect::<Result<_>>()?))
    }

    /// Says of what pieces the files of a message consist, which was just written.
    pub fn attach(&mut self, now_ms: u64, message: &Message, uploads: &[i64]) -> Result<()> {
        for id in uploads {
            let upload = self.upload(*id)?;
            let hashes = self.store.upload_pieces(*id)?;
            let body = Body::Content(Some(payload::manifest(&mark_of(&upload.key), upload.size, &hashes)));
            let what = (message.head.channel, Kind::File);
            self.write(now_ms, Some(message.platform), what, &body, Some(message.id))?;
            self.store.end_upload(*id)?;
        }
        Ok(())
    }

    /// Notes what a FILE says. Small files are fetched at once, by who can read them; relays fetch all.
    pub(super) fn note_file(&self, n: i64, m: &Message, author: Option<Id>) -> super::store::Result<bool> {
        let (Some(target), Some(payload)) = (m.head.refs.first(), m.payload()) else { return Ok(false) };
        let Some((mark, size, hashes)) = payload::manifest_of(&payload) else { return Ok(false) };
        self.store.add_file(n, (target, &mark, size), &hashes)?;
        let mut wanted = self.is_relay;
        if !wanted && size <= AT_ONCE {
            let kept = self.store.get(target)?.filter(|kept| kept.author == author);
            let platform = self.platforms.get(&m.platform);
            let plain = kept.zip(platform).and_then(|(kept, platform)| platform.plain(&kept.message));
            let files = plain.as_deref().map(payload::files_of).unwrap_or_default();
            wanted = files.iter().any(|(_, key)| mark_of(key) == mark);
        }
        if wanted {
            self.store.want_file(n, 1)?;
        }
        Ok(wanted)
    }

    /// The files of a message, as they are shown.
    pub(super) fn files(&self, platform: &Platform, kept: &Kept) -> Result<Vec<File>> {
        let plain = platform.plain(&kept.message).unwrap_or_default();
        let shown = |(file, key): (wire::File, [u8; 32])| {
            let mark = mark_of(&key);
            let found = self.file_of(kept, &file, &key)?;
            let (here, pieces) = found.map_or((0, payload::pieces(file.size).unwrap_or(0)), |f| (f.here, f.pieces));
            let (name, kind, size) = (file.name, file.kind, file.size);
            Ok(File { file: super::rooms::hex(&mark), name, kind, size, pieces, here })
        };
        payload::files_of(&plain).into_iter().map(shown).collect()
    }

    fn file_of(&self, kept: &Kept, about: &wire::File, key: &[u8; 32]) -> Result<Option<FileRow>> {
        let found = self.store.file(&kept.message.id, &mark_of(key), kept.author.unwrap_or_default())?;
        Ok(found.filter(|found| found.size == about.size))
    }

    /// A piece of a file, or how much of it is here. Returns also the number of its FILE if it is to be fetched.
    pub fn file_get(&self, platform: &str, message: &str, file: &str, piece: usize) -> Result<(Answer, Option<i64>)> {
        let platform = self.find_platform(platform)?;
        let kept = self.find_message(platform, message)?;
        if !kept.is_seen_by(self.me()) || kept.purged {
            return Err(Refusal::no("this message is gone, and its files are"));
        }
        let files = payload::files_of(&platform.plain(&kept.message).unwrap_or_default());
        let named = files.into_iter().find(|(_, key)| super::rooms::hex(&mark_of(key)) == file);
        let (about, key) = named.ok_or_else(|| Refusal::no(format!("this message has no file `{file}`")))?;
        let found = self.file_of(&kept, &about, &key)?;
        let found = found.ok_or_else(|| Refusal::no("what the file consists of is not here yet: try again"))?;
        if piece >= found.pieces {
            return Err(Refusal::no(format!("this file has {} pieces", found.pieces)));
        }
        Ok(match self.store.piece_of(found.n, piece)? {
            Some(sealed) => (Answer::Piece { bytes: Bytes(open_piece(&key, piece, sealed)?) }, None),
            None => (Answer::Fetching { here: found.here, pieces: found.pieces }, Some(found.n)),
        })
    }

    /// A piece has come: whether it is one.
    pub(super) fn take_piece(&self, now_ms: u64, hash: &payload::Hash, bytes: &[u8]) -> super::store::Result<bool> {
        let good = fits(bytes, hash);
        if good {
            self.store.add_piece(hash, bytes, now_ms)?;
        }
        Ok(good)
    }
}
