//! The tables of the chat's database.

pub(super) const SCHEMA: &str = "
CREATE TABLE platform (
    n INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    -- Whether this node's identity takes part.
    joined INTEGER NOT NULL
) STRICT;
CREATE TABLE message (
    n INTEGER PRIMARY KEY,
    platform INTEGER NOT NULL REFERENCES platform (n),
    id BLOB NOT NULL UNIQUE,
    device BLOB NOT NULL,
    -- The identity whose device it is, once that is known.
    author BLOB,
    seq INTEGER NOT NULL,
    prev BLOB,
    hlc INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    channel BLOB NOT NULL,
    -- What it answers, edits, reacts to, retracts.
    target BLOB,
    header BLOB NOT NULL,
    signature BLOB NOT NULL,
    payload BLOB,
    hidden INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    received INTEGER NOT NULL,
    -- Others that have confirmed it.
    copies INTEGER NOT NULL DEFAULT 0,
    -- Whether the index has its words.
    indexed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX message_shown ON message (platform, channel, hlc, id) WHERE kind = 1;
CREATE INDEX message_set ON message (platform, hlc, id, kind, hidden);
CREATE INDEX message_target ON message (target) WHERE target IS NOT NULL;
CREATE INDEX message_prev ON message (prev) WHERE prev IS NOT NULL;
CREATE INDEX message_seq ON message (platform, device, seq);
CREATE TABLE mark (
    platform INTEGER NOT NULL,
    channel BLOB NOT NULL,
    hlc INTEGER NOT NULL,
    PRIMARY KEY (platform, channel)
) STRICT, WITHOUT ROWID;
-- This device's last message by platform: its number is not to come twice, whatever else is deleted.
CREATE TABLE own (platform BLOB NOT NULL PRIMARY KEY, seq INTEGER NOT NULL, id BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE setting (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE VIRTUAL TABLE word USING fts5 (text, content = '', tokenize = 'unicode61 remove_diacritics 2');
INSERT INTO word (word, rank) VALUES ('secure-delete', 1);
";

/// What version 1 did not have.
pub(super) const SINCE_1: &str = "
-- Content whose bytes may still come.
CREATE INDEX message_absent ON message (platform) WHERE payload IS NULL AND purged = 0 AND hidden = 0 AND kind < 16;
-- Of private platforms.
CREATE TABLE secret (
    platform INTEGER NOT NULL,
    id BLOB NOT NULL,
    secret BLOB NOT NULL,
    PRIMARY KEY (platform, id)
) STRICT, WITHOUT ROWID;
-- What is sealed to this device is sealed to one of these.
CREATE TABLE prekey (public BLOB NOT NULL PRIMARY KEY, private BLOB NOT NULL, made INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- To private platforms; and with whom one's conversations of two are.
CREATE TABLE invitation (
    platform BLOB NOT NULL PRIMARY KEY,
    other BLOB NOT NULL,
    nick TEXT NOT NULL,
    own_nick TEXT NOT NULL,
    name TEXT NOT NULL,
    direct INTEGER NOT NULL,
    accepted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- By the FILE that brought it.
CREATE TABLE file (
    message INTEGER PRIMARY KEY,
    target BLOB NOT NULL,
    mark BLOB NOT NULL,
    size INTEGER NOT NULL,
    -- To be fetched: 1, or 2 if somebody waits for it.
    wanted INTEGER NOT NULL
) STRICT;
CREATE INDEX file_target ON file (target, mark);
CREATE INDEX file_wanted ON file (message) WHERE wanted > 0;
-- `message` is a FILE, or less than 0 and a file that is being handed in.
CREATE TABLE piece_use (message INTEGER NOT NULL, i INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (message, i)) STRICT, WITHOUT ROWID;
CREATE INDEX piece_use_hash ON piece_use (hash);
CREATE TABLE piece (hash BLOB NOT NULL PRIMARY KEY, bytes BLOB NOT NULL, received INTEGER NOT NULL) STRICT;
CREATE TABLE upload (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, key BLOB NOT NULL, size INTEGER NOT NULL
) STRICT;
CREATE TRIGGER file_gone AFTER DELETE ON message WHEN old.kind = 6 BEGIN
    DELETE FROM file WHERE message = old.n;
    DELETE FROM piece_use WHERE message = old.n;
END;
CREATE TRIGGER piece_gone AFTER DELETE ON piece_use
WHEN NOT EXISTS (SELECT 1 FROM piece_use WHERE hash = old.hash) BEGIN
    DELETE FROM piece WHERE hash = old.hash;
END;
";
