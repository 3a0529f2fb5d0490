//! What a node keeps of its platforms: one SQLite file. Bytes that are purged are overwritten in it, in its journal and in
//! the index of words.

use std::{collections::HashMap, path::Path};

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, config::DbConfig, params};

mod files;
mod look;
mod schema;
mod secrets;

pub use files::{FileRow, Upload};
pub use look::From;
use schema::{SCHEMA, SINCE_1};
pub use secrets::{Invitation, Prekey};

use super::sync::Scope;
use crate::chat::{Hlc, Id, Invalid, Kind, Message};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the chat's database: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("the chat's database holds what is no message: {0}")]
    Damaged(#[from] Invalid),
    #[error("the chat's database is of version {0}, and this program knows version {VERSION}: update it")]
    TooNew(i64),
}

pub type Result<T> = std::result::Result<T, StoreError>;

const VERSION: i64 = 2;
/// Prepared statements that are kept.
const STATEMENTS: usize = 64;

/// Why a message is not shown to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Hidden {
    /// It is.
    No = 0,
    /// Beyond a ban's cut: nobody sees it, and it is not offered to others.
    Banned = 1,
    /// Only its author sees it.
    Shadowed = 2,
    /// It claims to be older than what it names, or its author is not known yet.
    Odd = 3,
}

impl Hidden {
    fn of(n: i64) -> Self {
        [Self::No, Self::Banned, Self::Shadowed].into_iter().find(|h| *h as i64 == n).unwrap_or(Self::Odd)
    }
}

/// A message as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    pub n: i64,
    pub message: Message,
    pub author: Option<Id>,
    pub hidden: Hidden,
    pub purged: bool,
    pub received_ms: u64,
    pub copies: u32,
}

/// An entry of `platform`.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub n: i64,
    pub id: Id,
    pub joined: bool,
}

impl Kept {
    /// Whether this identity sees it.
    #[must_use]
    pub fn is_seen_by(&self, who: Id) -> bool {
        self.hidden == Hidden::No || self.hidden == Hidden::Shadowed && self.author == Some(who)
    }
}

pub struct Store {
    db: Connection,
}

const COLUMNS: &str = "n, header, signature, payload, author, hidden, purged, received, copies";

fn kept(row: &Row<'_>) -> Result<Kept> {
    let (header, signature): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
    Ok(Kept {
        n: row.get(0)?,
        message: Message::assemble(header, &signature, row.get(3)?)?,
        author: row.get::<_, Option<[u8; 32]>>(4)?.map(Id),
        hidden: Hidden::of(row.get(5)?),
        purged: row.get(6)?,
        received_ms: row.get::<_, i64>(7)?.cast_unsigned(),
        copies: row.get(8)?,
    })
}

/// Hybrid time as SQLite has it: its order holds until the year 6429.
fn time(hlc: Hlc) -> i64 {
    i64::try_from(hlc.0).unwrap_or(i64::MAX)
}

impl Store {
    /// Opens the file, or makes it.
    pub fn open(file: &Path) -> Result<Self> {
        let db = Connection::open(file)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        // Else statements that a partial index may serve are planned anew with each value: 3 tenths of taking a message in.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -16000; PRAGMA wal_autocheckpoint = 4000; PRAGMA foreign_keys = ON;",
        )?;
        match db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))? {
            0 => db.execute_batch(&format!("BEGIN; {SCHEMA} {SINCE_1} PRAGMA user_version = {VERSION}; COMMIT;"))?,
            1 => db.execute_batch(&format!("BEGIN; {SINCE_1} PRAGMA user_version = {VERSION}; COMMIT;"))?,
            VERSION => {}
            newer => return Err(StoreError::TooNew(newer)),
        }
        let store = Self { db };
        // A crash may have come between overwriting bytes and the journal's end.
        store.drop_uploads()?;
        store.clean_journal()?;
        Ok(store)
    }

    /// What follows becomes durable at once, by [`Self::commit`], or not at all.
    pub fn begin(&self) -> Result<()> {
        Ok(self.db.execute_batch("BEGIN IMMEDIATE")?)
    }

    pub fn commit(&self) -> Result<()> {
        Ok(self.db.execute_batch("COMMIT")?)
    }

    pub fn roll_back(&self) {
        // There may be nothing to take back.
        let _ = self.db.execute_batch("ROLLBACK");
    }

    /// Takes what was overwritten out of the journal as well.
    pub fn clean_journal(&self) -> Result<()> {
        Ok(self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    fn run(&self, sql: &str, values: &[&dyn ToSql]) -> Result<usize> {
        Ok(self.db.prepare_cached(sql)?.execute(values)?)
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Option<T>> {
        Ok(self.db.prepare_cached(sql)?.query_row(values, |r| r.get(0)).optional()?)
    }

    fn all(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<Kept>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            out.push(kept(row)?);
        }
        Ok(out)
    }

    pub fn places(&self) -> Result<Vec<Place>> {
        let mut statement = self.db.prepare("SELECT n, id, joined FROM platform")?;
        let rows = statement.query_map([], |r| Ok(Place { n: r.get(0)?, id: Id(r.get(1)?), joined: r.get(2)? }))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn add_place(&self, id: Id) -> Result<Place> {
        self.run("INSERT INTO platform (id, joined) VALUES (?, 0)", &[&id.0])?;
        Ok(Place { n: self.db.last_insert_rowid(), id, joined: false })
    }

    pub fn set_joined(&self, place: i64, joined: bool) -> Result<()> {
        self.run("UPDATE platform SET joined = ? WHERE n = ?", &[&joined, &place])?;
        Ok(())
    }

    /// Takes away a platform's messages, or with `acts` everything about it; `words` are those that the index has of each.
    pub fn clear(&self, place: i64, acts: bool, words: impl Fn(&Message) -> Option<String>) -> Result<()> {
        let mut last = 0;
        while let some = self.by_index(place, true, last)?
            && let Some(kept) = some.last()
        {
            last = kept.n;
            some.iter().try_for_each(|kept| self.forget_words(kept.n, words(&kept.message)))?;
        }
        let limit: i64 = if acts { i64::MAX } else { 16 };
        self.run("DELETE FROM message WHERE platform = ? AND kind < ?", &[&place, &limit])?;
        self.run("DELETE FROM mark WHERE platform = ?", &[&place])?;
        self.run("DELETE FROM secret WHERE platform = ?", &[&place])?;
        if acts {
            self.run("DELETE FROM platform WHERE n = ?", &[&place])?;
        }
        Ok(())
    }

    /// Keeps a message that came at this time, with its words in the index; returns its number.
    pub fn insert(
        &self,
        place: i64,
        m: &Message,
        author: Option<Id>,
        (now_ms, words): (u64, Option<String>),
    ) -> Result<i64> {
        let payload = m.payload();
        let sql = "INSERT INTO message (platform, id, device, author, seq, prev, hlc, kind, channel, target, header, signature,
             payload, hidden, purged, received, indexed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?)";
        let head = &m.head;
        let target = if head.kind.is_authority() { None } else { head.refs.first().map(|r| r.0) };
        self.run(
            sql,
            params![
                place,
                m.id.0,
                m.device.0,
                author.map(|a| a.0),
                head.seq.cast_signed(),
                head.prev.map(|p| p.0),
                time(head.hlc),
                head.kind as u32,
                &head.channel[..],
                target,
                m.header,
                &m.signature[..],
                payload,
                now_ms.cast_signed(),
                words.is_some()
            ],
        )?;
        let n = self.db.last_insert_rowid();
        if let Some(words) = words {
            self.run("INSERT INTO word (rowid, text) VALUES (?, ?)", &[&n, &words])?;
        }
        Ok(n)
    }

    pub fn has(&self, id: &Id) -> Result<bool> {
        Ok(self.one::<i64>("SELECT 1 FROM message WHERE id = ?", &[&id.0])?.is_some())
    }

    /// Whether a message, or only its bytes, could be had from somebody else.
    pub fn lacks(&self, id: &Id) -> Result<bool> {
        let sql = "SELECT payload IS NULL AND purged = 0 AND hidden = 0 FROM message WHERE id = ?";
        Ok(self.one::<bool>(sql, &[&id.0])?.unwrap_or(true))
    }

    /// Content whose bytes are not here, though nothing says that they should not be.
    pub fn absent(&self, place: i64, limit: usize) -> Result<Vec<Id>> {
        let sql = "SELECT id FROM message WHERE platform = ? AND payload IS NULL AND purged = 0 AND hidden = 0 AND kind < 16 LIMIT ?";
        let mut statement = self.db.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![place, limit], |r| r.get(0).map(Id))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn get(&self, id: &Id) -> Result<Option<Kept>> {
        let sql = format!("SELECT {COLUMNS} FROM message WHERE id = ?");
        Ok(self.all(&sql, &[&id.0])?.pop())
    }

    pub fn by_number(&self, n: i64) -> Result<Option<Kept>> {
        let sql = format!("SELECT {COLUMNS} FROM message WHERE n = ?");
        Ok(self.all(&sql, &[&n])?.pop())
    }

    /// All messages of a platform.
    #[cfg(test)]
    pub fn messages(&self, place: i64) -> Result<Vec<Message>> {
        let sql = format!("SELECT {COLUMNS} FROM message WHERE platform = ? ORDER BY n");
        Ok(self.all(&sql, &[&place])?.into_iter().map(|k| k.message).collect())
    }

    #[cfg(test)]
    pub fn count(&self, place: i64) -> Result<usize> {
        let n: Option<i64> = self.one("SELECT count(*) FROM message WHERE platform = ?", &[&place])?;
        Ok(n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
    }

    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        self.one("SELECT value FROM setting WHERE key = ?", &[&key])
    }

    pub fn set_setting(&self, key: &str, value: &str) -> Result<()> {
        let sql = "INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.run(sql, &[&key, &value]).map(drop)
    }

    /// Bytes in use.
    pub fn bytes(&self) -> Result<u64> {
        let value = |name: &str| self.db.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
        let pages = value("page_count")? - value("freelist_count")?;
        Ok((pages * value("page_size")?).cast_unsigned())
    }

    /// Deletes content that came before this time.
    pub fn delete_older(&self, than_ms: u64) -> Result<usize> {
        self.run("DELETE FROM message WHERE kind < 16 AND received < ?", &[&than_ms.cast_signed()])
    }

    /// Deletes the oldest content of the author who has the most: one who writes too much pushes out nobody else.
    pub fn delete_oldest(&self) -> Result<usize> {
        let sql = "DELETE FROM message WHERE n IN (SELECT n FROM message WHERE kind < 16 AND author IS
             (SELECT author FROM message WHERE kind < 16 GROUP BY author ORDER BY sum(length(header) + length(payload)) DESC LIMIT 1)
             ORDER BY n LIMIT 1000)";
        self.run(sql, &[])
    }

    /// Messages whose id begins so, in hexadecimal; two if there are several.
    pub fn by_prefix(&self, place: i64, prefix: &str) -> Result<Vec<Kept>> {
        let bound = |fill: &str| {
            let whole = format!("{prefix}{}", fill.repeat(64_usize.saturating_sub(prefix.len())));
            data_encoding::HEXLOWER.decode(whole.as_bytes()).unwrap_or_default()
        };
        let sql = format!("SELECT {COLUMNS} FROM message WHERE id BETWEEN ? AND ? AND platform = ? LIMIT 2");
        self.all(&sql, &[&bound("0"), &bound("f"), &place])
    }

    pub fn acts(&self, place: i64) -> Result<Vec<Message>> {
        let sql = format!("SELECT {COLUMNS} FROM message WHERE platform = ? AND kind >= 16 ORDER BY n");
        Ok(self.all(&sql, &[&place])?.into_iter().map(|k| k.message).collect())
    }

    /// Devices that said two things under one number, and the lowest such number.
    pub fn forks(&self, place: i64) -> Result<HashMap<Id, u64>> {
        let sql = "SELECT device, min(seq) FROM (SELECT device, seq FROM message WHERE platform = ?
             GROUP BY device, seq HAVING count(*) > 1) GROUP BY device";
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map([place], |r| Ok((Id(r.get(0)?), r.get::<_, i64>(1)?.cast_unsigned())))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether a device has said something else under this number.
    pub fn is_fork(&self, place: i64, m: &Message) -> Result<bool> {
        let sql = "SELECT 1 FROM message WHERE platform = ? AND device = ? AND seq = ? AND id <> ?";
        Ok(self.one::<i64>(sql, &[&place, &m.device.0, &m.head.seq.cast_signed(), &m.id.0])?.is_some())
    }

    /// The last message of a device: its number and id.
    pub fn last_of(&self, place: i64, device: Id) -> Result<Option<(u64, Id)>> {
        let sql = "SELECT seq, id FROM message WHERE platform = ? AND device = ? ORDER BY seq DESC LIMIT 1";
        let mut statement = self.db.prepare_cached(sql)?;
        let row =
            statement.query_row(params![place, device.0], |r| Ok((r.get::<_, i64>(0)?.cast_unsigned(), Id(r.get(1)?))));
        Ok(row.optional()?)
    }

    /// This device's last message on a platform, whether it is still here or not.
    pub fn own(&self, platform: &Id) -> Result<Option<(u64, Id)>> {
        let mut statement = self.db.prepare_cached("SELECT seq, id FROM own WHERE platform = ?")?;
        let row = statement.query_row([platform.0], |r| Ok((r.get::<_, i64>(0)?.cast_unsigned(), Id(r.get(1)?))));
        Ok(row.optional()?)
    }

    pub fn set_own(&self, platform: &Id, seq: u64, id: &Id) -> Result<()> {
        let sql = "INSERT INTO own (platform, seq, id) VALUES (?, ?, ?)
             ON CONFLICT DO UPDATE SET seq = excluded.seq, id = excluded.id WHERE excluded.seq > seq";
        self.run(sql, &[&platform.0, &seq.cast_signed(), &id.0]).map(drop)
    }

    /// The latest hybrid time of all that is kept.
    pub fn latest(&self) -> Result<Hlc> {
        let latest: Option<Option<i64>> = self.one("SELECT max(hlc) FROM message", &[])?;
        Ok(Hlc(latest.flatten().unwrap_or(0).cast_unsigned()))
    }

    /// Whether something that this message names, or that names it, contradicts its time.
    pub fn is_odd(&self, m: &Message) -> Result<bool> {
        for before in m.head.prev.iter().chain(&m.head.auth_heads).chain(&m.head.refs) {
            let at: Option<i64> = self.one("SELECT hlc FROM message WHERE id = ?", &[&before.0])?;
            if at.is_some_and(|at| at >= time(m.head.hlc)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Content that names this message and claims to be no later.
    pub fn odd_after(&self, m: &Message) -> Result<Vec<i64>> {
        let sql = "SELECT n FROM message WHERE target = ?1 AND hlc <= ?2 UNION SELECT n FROM message WHERE prev = ?1 AND hlc <= ?2";
        self.numbers(sql, params![m.id.0, time(m.head.hlc)])
    }

    fn numbers(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<i64>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(values, |r| r.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Content of an identity, or of a device.
    pub fn content_of(&self, place: i64, whose: Id) -> Result<Vec<i64>> {
        let sql = "SELECT n FROM message WHERE platform = ?1 AND kind < 16 AND (author = ?2 OR device = ?2)";
        self.numbers(sql, &[&place, &whose.0])
    }

    /// The devices of an identity, each with the number of its last message.
    pub fn devices_of(&self, place: i64, whose: Id) -> Result<Vec<(Id, u64)>> {
        let sql = "SELECT device, max(seq) FROM message WHERE platform = ? AND device IN
             (SELECT DISTINCT device FROM message WHERE platform = ?1 AND author = ?2) GROUP BY device";
        let mut statement = self.db.prepare(sql)?;
        let rows = statement
            .query_map(params![place, whose.0], |r| Ok((Id(r.get(0)?), r.get::<_, i64>(1)?.cast_unsigned())))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn number_of(&self, id: &Id) -> Result<Option<i64>> {
        self.one("SELECT n FROM message WHERE id = ?", &[&id.0])
    }

    /// Whose message this is, if it is here and that is known.
    pub fn author_of(&self, id: &Id) -> Result<Option<Id>> {
        let author: Option<Option<[u8; 32]>> = self.one("SELECT author FROM message WHERE id = ?", &[&id.0])?;
        Ok(author.flatten().map(Id))
    }

    /// Edits of a message, reactions to it, and its files.
    pub fn following(&self, id: &Id) -> Result<Vec<i64>> {
        self.numbers("SELECT n FROM message WHERE target = ? AND kind IN (2, 3, 6)", &[&id.0])
    }

    /// What is compared with other nodes, in no order. What a ban keeps out is not.
    pub fn items(&self, place: i64, scope: &Scope) -> Result<Vec<(Hlc, Id)>> {
        let sql = if scope.acts {
            "SELECT hlc, id FROM message WHERE platform = ? AND hlc >= ? AND hlc < ? AND kind >= 16"
        } else {
            "SELECT hlc, id FROM message WHERE platform = ? AND hlc >= ? AND hlc < ? AND kind < 16 AND hidden <> 1"
        };
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(params![place, time(scope.from), time(scope.to)], |r| {
            Ok((Hlc(r.get::<_, i64>(0)?.cast_unsigned()), Id(r.get(1)?)))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn set_author(&self, place: i64, device: Id, author: Id) -> Result<()> {
        let sql = "UPDATE message SET author = ? WHERE platform = ? AND device = ? AND author IS NOT ?1";
        self.run(sql, &[&author.0, &place, &device.0])?;
        Ok(())
    }

    /// Whether the author of a message has taken it back.
    pub fn is_retracted(&self, id: &Id, author: Id) -> Result<bool> {
        let sql = "SELECT 1 FROM message WHERE target = ? AND kind = ? AND author = ?";
        Ok(self.one::<i64>(sql, &[&id.0, &(Kind::Retract as u32), &author.0])?.is_some())
    }

    pub fn set_standing(&self, n: i64, hidden: Hidden, purged: bool) -> Result<()> {
        self.run("UPDATE message SET hidden = ?, purged = ? WHERE n = ?", &[&(hidden as i64), &purged, &n])?;
        Ok(())
    }

    /// Overwrites the payload of a message, and its words in the index.
    pub fn drop_payload(&self, n: i64, words: Option<String>) -> Result<()> {
        self.forget_words(n, words)?;
        self.run("UPDATE message SET payload = NULL WHERE n = ?", &[&n])?;
        Ok(())
    }

    /// Notes how many others have a message; returns its platform and number.
    pub fn set_copies(&self, id: &Id, copies: u32) -> Result<Option<(Id, i64)>> {
        self.run("UPDATE message SET copies = ? WHERE id = ?", &[&copies, &id.0])?;
        let sql = "SELECT platform.id, message.n FROM message JOIN platform ON platform.n = message.platform WHERE message.id = ?";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([id.0], |r| Ok((Id(r.get(0)?), r.get(1)?))).optional()?)
    }

    pub fn fill_payload(&self, n: i64, payload: &[u8]) -> Result<()> {
        self.run("UPDATE message SET payload = ? WHERE n = ?", &[&payload, &n])?;
        Ok(())
    }

    /// Takes words into the index.
    pub fn learn_words(&self, n: i64, words: &str) -> Result<()> {
        self.run("INSERT INTO word (rowid, text) VALUES (?, ?)", &[&n, &words])?;
        self.run("UPDATE message SET indexed = 1 WHERE n = ?", &[&n]).map(drop)
    }

    /// Texts and edits with their bytes, a thousand after a number: those whose words are in the index, or are not.
    pub fn by_index(&self, place: i64, indexed: bool, after: i64) -> Result<Vec<Kept>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM message WHERE platform = ? AND indexed = ? AND n > ? AND kind IN (1, 2)
             AND payload IS NOT NULL ORDER BY n LIMIT 1000"
        );
        self.all(&sql, &[&place, &indexed, &after])
    }

    fn forget_words(&self, n: i64, words: Option<String>) -> Result<()> {
        if self.run("UPDATE message SET indexed = 0 WHERE n = ? AND indexed = 1", &[&n])? == 0 {
            return Ok(());
        }
        let Some(text) = words else { return Ok(()) };
        self.run("INSERT INTO word (word, rowid, text) VALUES ('delete', ?, ?)", &[&n, &text])?;
        Ok(())
    }
}
