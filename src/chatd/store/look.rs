//! What people look at: pages of a channel, what is about a message, what is unread, what is found.

use rusqlite::params;

use super::{COLUMNS, Kept, Result, Store, time};
use crate::chat::{Hlc, Id, Message};

/// Where a page of messages begins.
#[derive(Clone, Copy, Debug)]
pub enum From {
    /// The newest before this point.
    Before(Hlc, Id),
    /// The oldest after it.
    After(Hlc, Id),
}

impl Store {
    /// Messages of a channel as somebody sees it: before a point newest first, after one oldest first.
    pub fn page(&self, place: i64, channel: &[u8; 16], viewer: Id, from: From, limit: usize) -> Result<Vec<Kept>> {
        let (compare, order, (hlc, id)) = match from {
            From::Before(hlc, id) => ("<", "DESC", (hlc, id)),
            From::After(hlc, id) => (">", "ASC", (hlc, id)),
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE platform = ? AND channel = ? AND kind = 1
             AND (hidden = 0 OR (hidden = 2 AND author = ?)) AND (hlc, id) {compare} (?, ?)
             ORDER BY hlc {order}, id {order} LIMIT ?"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.all(&sql, &[&place, &&channel[..], &viewer.0, &time(hlc), &id.0, &limit])
    }

    /// Edits of a message and reactions to it that somebody sees, with their authors, by hybrid time.
    pub fn about(&self, id: &Id, viewer: Id) -> Result<Vec<(Message, Id)>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE target = ? AND kind IN (2, 3) AND purged = 0
             AND (hidden = 0 OR (hidden = 2 AND author = ?)) ORDER BY hlc, id"
        );
        let all = self.all(&sql, &[&id.0, &viewer.0])?;
        Ok(all.into_iter().filter_map(|k| Some((k.message, k.author?))).collect())
    }

    /// Messages of others in a channel that are not read yet, and how many of them name `nick`.
    pub fn unread(&self, place: i64, channel: &[u8; 16], viewer: Id, nick: &str) -> Result<(usize, usize)> {
        let sql =
            "SELECT count(*), coalesce(sum(instr(payload, ?) > 0), 0) FROM message WHERE platform = ? AND channel = ?
             AND kind = 1 AND hidden = 0 AND purged = 0 AND author <> ?
             AND hlc > coalesce((SELECT hlc FROM mark WHERE platform = ?2 AND channel = ?3), 0)";
        let name = format!("@{nick}").into_bytes();
        let mut statement = self.db.prepare_cached(sql)?;
        let row = statement.query_row(params![name, place, &channel[..], viewer.0], |r| {
            Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?))
        })?;
        Ok((usize::try_from(row.0).unwrap_or(0), usize::try_from(row.1).unwrap_or(0)))
    }

    /// All up to this point is read. What was read stays so.
    pub fn mark(&self, place: i64, channel: &[u8; 16], hlc: Hlc) -> Result<()> {
        let sql = "INSERT INTO mark (platform, channel, hlc) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET hlc = max(hlc, excluded.hlc)";
        self.run(sql, &[&place, &&channel[..], &time(hlc)])?;
        Ok(())
    }

    /// Texts and edits with these words (FTS5's query syntax), newest first.
    pub fn search(&self, place: i64, query: &str, viewer: Id, limit: usize) -> Result<Vec<Kept>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE n IN (SELECT rowid FROM word WHERE word MATCH ?) AND platform = ?
             AND purged = 0 AND (hidden = 0 OR (hidden = 2 AND author = ?)) ORDER BY hlc DESC LIMIT ?"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.all(&sql, &[&query, &place, &viewer.0, &limit])
    }

    /// The newest messages of others in a channel that are not read yet.
    pub fn newest_unread(&self, place: i64, channel: &[u8; 16], viewer: Id, limit: usize) -> Result<Vec<Kept>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE platform = ?1 AND channel = ?2 AND kind = 1 AND hidden = 0 AND purged = 0
             AND author <> ?3 AND hlc > coalesce((SELECT hlc FROM mark WHERE platform = ?1 AND channel = ?2), 0)
             ORDER BY hlc DESC LIMIT ?4"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.all(&sql, &[&place, &&channel[..], &viewer.0, &limit])
    }
}
