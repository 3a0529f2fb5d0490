//! `chat`: the chat's service on this node.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ConfigError, Reader, raw::Text};

/// The port on mesh addresses where nodes of the chat find each other.
const PORT: u16 = 8007;
/// The port on loopback of the page and its API.
const PAGE: u16 = 8006;

/// The chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// The same on all nodes.
    pub port: u16,
    /// The page's port on loopback; `None`: no page.
    pub page: Option<u16>,
    /// The IRC gateway's port on loopback; `None`: there is none.
    pub irc: Option<u16>,
    /// Relays to keep a connection to: `ws://` or `wss://`.
    pub relays: Vec<String>,
    /// Holds the master password, for who wants to be signed in at the start.
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawChat {
    enabled: bool,
    port: u16,
    page: u16,
    irc: u16,
    relays: Vec<Spanned<Text>>,
    password_file: Option<Text>,
}

impl Default for RawChat {
    fn default() -> Self {
        Self { enabled: false, port: PORT, page: PAGE, irc: 0, relays: Vec::new(), password_file: None }
    }
}

impl Reader<'_> {
    pub(super) fn chat(&self, raw: &RawChat) -> Result<Option<Chat>, ConfigError> {
        if !raw.enabled {
            return Ok(None);
        }
        if raw.port == 0 {
            return Err(self.missing("chat.port", "expected 1 to 65535: the same on all nodes"));
        }
        for relay in &raw.relays {
            let url = &relay.value.0;
            if !url.starts_with("ws://") && !url.starts_with("wss://") {
                let message = format!("expected ws://HOST[:PORT] or wss://HOST[:PORT], got `{url}`");
                return Err(self.error(&relay.referenced, message));
            }
        }
        Ok(Some(Chat {
            port: raw.port,
            page: Some(raw.page).filter(|p| *p != 0),
            irc: Some(raw.irc).filter(|p| *p != 0),
            relays: raw.relays.iter().map(|r| r.value.0.trim().to_owned()).collect(),
            password_file: raw.password_file.as_ref().map(|f| self.resolve(&f.0)),
        }))
    }
}
