//! What opens what is sealed: secrets of private platforms, keys of this device, and invitations.

use std::collections::HashMap;

use rusqlite::{Row, params};

use super::{Result, Store};
use crate::chat::{
    Id,
    sealed::{Secret, SecretId, name_of},
};

/// A key that others seal to for this device.
#[derive(Clone, Copy)]
pub struct Prekey {
    pub public: [u8; 32],
    pub private: [u8; 32],
    pub made_ms: u64,
}

/// To a private platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    pub platform: Id,
    /// Who invites; of a conversation of two, with whom it is.
    pub other: Id,
    pub nick: String,
    /// What oneself is called where it came from.
    pub own_nick: String,
    pub name: String,
    pub direct: bool,
    pub accepted: bool,
}

fn invitation(row: &Row<'_>) -> rusqlite::Result<Invitation> {
    Ok(Invitation {
        platform: Id(row.get(0)?),
        other: Id(row.get(1)?),
        nick: row.get(2)?,
        own_nick: row.get(3)?,
        name: row.get(4)?,
        direct: row.get(5)?,
        accepted: row.get(6)?,
    })
}

impl Store {
    pub fn secrets(&self, place: i64) -> Result<HashMap<SecretId, Secret>> {
        let mut statement = self.db.prepare_cached("SELECT id, secret FROM secret WHERE platform = ?")?;
        let rows = statement.query_map([place], |r| Ok((r.get(0)?, r.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn add_secret(&self, place: i64, secret: &Secret) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO secret (platform, id, secret) VALUES (?, ?, ?)";
        self.run(sql, &[&place, &name_of(secret), secret]).map(drop)
    }

    /// The keys of this device, the newest first.
    pub fn prekeys(&self) -> Result<Vec<Prekey>> {
        let mut statement = self.db.prepare_cached("SELECT public, private, made FROM prekey ORDER BY made DESC")?;
        let rows = statement.query_map([], |r| {
            Ok(Prekey { public: r.get(0)?, private: r.get(1)?, made_ms: r.get::<_, i64>(2)?.cast_unsigned() })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn add_prekey(&self, key: &Prekey) -> Result<()> {
        let sql = "INSERT INTO prekey (public, private, made) VALUES (?, ?, ?)";
        self.run(sql, params![key.public, key.private, key.made_ms.cast_signed()]).map(drop)
    }

    pub fn drop_prekey(&self, key: &Prekey) -> Result<()> {
        self.run("DELETE FROM prekey WHERE public = ?", &[&key.public]).map(drop)
    }

    pub fn invitations(&self) -> Result<Vec<Invitation>> {
        let sql = "SELECT platform, other, nick, own_nick, name, direct, accepted FROM invitation";
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map([], invitation)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn set_invitation(&self, i: &Invitation) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO invitation (platform, other, nick, own_nick, name, direct, accepted)
             VALUES (?, ?, ?, ?, ?, ?, ?)";
        self.run(sql, params![i.platform.0, i.other.0, i.nick, i.own_nick, i.name, i.direct, i.accepted]).map(drop)
    }

    pub fn drop_invitation(&self, platform: &Id) -> Result<()> {
        self.run("DELETE FROM invitation WHERE platform = ?", &[&platform.0]).map(drop)
    }
}
