//! Pieces of files: each is here as long as a message says that it is a piece of its file.

use rusqlite::{OptionalExtension as _, params};

use super::{Result, Store};
use crate::{
    chat::Id,
    chatd::payload::{Hash, Mark},
};

/// A file that a message brought.
#[derive(Clone, Copy, Debug)]
pub struct FileRow {
    /// The number of its FILE.
    pub n: i64,
    pub size: u64,
    pub pieces: usize,
    /// Pieces that are here.
    pub here: usize,
}

/// A file that is being handed in, and belongs to no message yet.
pub struct Upload {
    pub name: String,
    pub kind: String,
    pub key: [u8; 32],
    pub size: u64,
}

impl Store {
    /// Notes of what pieces the file of a FILE consists.
    pub fn add_file(&self, n: i64, (target, mark, size): (&Id, &Mark, u64), hashes: &[Hash]) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO file (message, target, mark, size, wanted) VALUES (?, ?, ?, ?, 0)";
        self.run(sql, params![n, target.0, mark, size.cast_signed()])?;
        self.use_pieces(n, hashes)
    }

    fn use_pieces(&self, n: i64, hashes: &[Hash]) -> Result<()> {
        for (i, hash) in hashes.iter().enumerate() {
            let i = i64::try_from(i).unwrap_or(i64::MAX);
            self.run("INSERT OR IGNORE INTO piece_use (message, i, hash) VALUES (?, ?, ?)", params![n, i, hash])?;
        }
        Ok(())
    }

    /// The file of a FILE is gone, and with it the pieces that no other has.
    pub fn forget_file(&self, n: i64) -> Result<()> {
        self.run("DELETE FROM file WHERE message = ?", &[&n])?;
        self.run("DELETE FROM piece_use WHERE message = ?", &[&n]).map(drop)
    }

    /// The file of this mark that the author of a message has attached to it.
    pub fn file(&self, target: &Id, mark: &Mark, author: Id) -> Result<Option<FileRow>> {
        let sql = "SELECT f.message, f.size, (SELECT count(*) FROM piece_use u WHERE u.message = f.message),
             (SELECT count(*) FROM piece_use u JOIN piece p ON p.hash = u.hash WHERE u.message = f.message)
             FROM file f JOIN message m ON m.n = f.message WHERE f.target = ? AND f.mark = ? AND m.author = ? LIMIT 1";
        let mut statement = self.db.prepare_cached(sql)?;
        let row = statement.query_row(params![target.0, mark, author.0], |r| {
            let count = |i| r.get::<_, i64>(i).map(|n| usize::try_from(n).unwrap_or(0));
            Ok(FileRow { n: r.get(0)?, size: r.get::<_, i64>(1)?.cast_unsigned(), pieces: count(2)?, here: count(3)? })
        });
        Ok(row.optional()?)
    }

    /// It is to be fetched: 2 if somebody waits for it, 1 else.
    pub fn want_file(&self, n: i64, wanted: u8) -> Result<()> {
        self.run("UPDATE file SET wanted = max(wanted, ?) WHERE message = ?", &[&wanted, &n]).map(drop)
    }

    /// Files that are to be fetched and are not whole yet, with their platforms: those that somebody waits for first, then the newest.
    pub fn wanted_files(&self, limit: usize) -> Result<Vec<(i64, Id)>> {
        let sql =
            "SELECT f.message, p.id FROM file f JOIN message m ON m.n = f.message JOIN platform p ON p.n = m.platform
             WHERE f.wanted > 0 AND EXISTS (SELECT 1 FROM piece_use u LEFT JOIN piece x ON x.hash = u.hash
             WHERE u.message = f.message AND x.hash IS NULL) ORDER BY f.wanted DESC, f.message DESC LIMIT ?";
        let mut statement = self.db.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map([limit], |r| Ok((r.get(0)?, Id(r.get(1)?))))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The pieces of a file that are not here.
    pub fn missing_pieces(&self, n: i64) -> Result<Vec<Hash>> {
        let sql = "SELECT u.hash FROM piece_use u LEFT JOIN piece p ON p.hash = u.hash
             WHERE u.message = ? AND p.hash IS NULL ORDER BY u.i";
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map([n], |r| r.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A piece by the number of its file's FILE and its own.
    pub fn piece_of(&self, n: i64, i: usize) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT p.bytes FROM piece_use u JOIN piece p ON p.hash = u.hash WHERE u.message = ? AND u.i = ?";
        self.one(sql, &[&n, &i64::try_from(i).unwrap_or(i64::MAX)])
    }

    pub fn piece(&self, hash: &Hash) -> Result<Option<Vec<u8>>> {
        self.one("SELECT bytes FROM piece WHERE hash = ?", &[hash])
    }

    /// Keeps a piece, if some file has it.
    pub fn add_piece(&self, hash: &Hash, bytes: &[u8], now_ms: u64) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO piece (hash, bytes, received)
             SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM piece_use WHERE hash = ?1)";
        self.run(sql, params![hash, bytes, now_ms.cast_signed()]).map(drop)
    }

    /// Deletes some pieces of the author who has the most: those of the oldest files, which are not fetched again. Returns how many.
    pub fn drop_oldest_pieces(&self) -> Result<usize> {
        // A piece is of who named it first: nobody loses one because somebody else names it too.
        let sql = "WITH kept AS (SELECT u.hash, u.message, u.i, m.author
             FROM piece_use u JOIN message m ON m.n = u.message WHERE EXISTS (SELECT 1 FROM piece p WHERE p.hash = u.hash)
             AND u.message = (SELECT min(v.message) FROM piece_use v WHERE v.hash = u.hash))
             SELECT hash FROM kept WHERE author IS (SELECT author FROM kept GROUP BY author ORDER BY count(*) DESC LIMIT 1)
             ORDER BY message, i LIMIT 512";
        let mut statement = self.db.prepare_cached(sql)?;
        let oldest = statement.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<Vec<Hash>>>()?;
        let mut gone = 0;
        let transaction = self.db.unchecked_transaction()?;
        for hash in oldest {
            self.run(
                "UPDATE file SET wanted = 0 WHERE message IN (SELECT message FROM piece_use WHERE hash = ?)",
                &[&hash],
            )?;
            gone += self.run("DELETE FROM piece WHERE hash = ?", &[&hash])?;
        }
        transaction.commit()?;
        Ok(gone)
    }

    /// A new file to be handed in; returns its number.
    pub fn add_upload(&self, upload: &Upload) -> Result<i64> {
        let sql = "INSERT INTO upload (name, kind, key, size) VALUES (?, ?, ?, ?)";
        self.run(sql, params![upload.name, upload.kind, upload.key, upload.size.cast_signed()])?;
        Ok(self.db.last_insert_rowid())
    }

    pub fn upload(&self, id: i64) -> Result<Option<Upload>> {
        let mut statement = self.db.prepare_cached("SELECT name, kind, key, size FROM upload WHERE id = ?")?;
        let row = statement.query_row([id], |r| {
            let size = r.get::<_, i64>(3)?.cast_unsigned();
            Ok(Upload { name: r.get(0)?, kind: r.get(1)?, key: r.get(2)?, size })
        });
        Ok(row.optional()?)
    }

    /// The next piece of a file that is handed in, and how long that is now.
    pub fn add_to_upload(
        &self,
        id: i64,
        (i, hash, sealed): (usize, &Hash, &[u8]),
        size: u64,
        now_ms: u64,
    ) -> Result<()> {
        let i = i64::try_from(i).unwrap_or(i64::MAX);
        self.run("INSERT INTO piece_use (message, i, hash) VALUES (?, ?, ?)", params![-id, i, hash])?;
        self.add_piece(hash, sealed, now_ms)?;
        self.run("UPDATE upload SET size = ? WHERE id = ?", params![size.cast_signed(), id]).map(drop)
    }

    pub fn upload_pieces(&self, id: i64) -> Result<Vec<Hash>> {
        let mut statement = self.db.prepare_cached("SELECT hash FROM piece_use WHERE message = ? ORDER BY i")?;
        let rows = statement.query_map([-id], |r| r.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// It belongs to a message now, or to none.
    pub fn end_upload(&self, id: i64) -> Result<()> {
        self.run("DELETE FROM upload WHERE id = ?", &[&id])?;
        self.run("DELETE FROM piece_use WHERE message = ?", &[&-id]).map(drop)
    }

    /// What was handed in before a restart and belongs to no message.
    pub fn drop_uploads(&self) -> Result<()> {
        self.run("DELETE FROM upload", &[])?;
        self.run("DELETE FROM piece_use WHERE message < 0", &[]).map(drop)
    }
}
