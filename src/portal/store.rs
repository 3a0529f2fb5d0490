//! The portal's key and clients, in a file of their own: lost, every client needs a new configuration.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{host, identity::keyfile};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    #[serde(skip)]
    file: PathBuf,
    /// Base64, as WireGuard writes keys.
    pub private_key: String,
    pub clients: Vec<Entry>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub name: String,
    /// Its address in each of the portal's networks, counted from the network's.
    pub number: u32,
    pub public_key: String,
    pub preshared_key: String,
    /// Where it was last heard: after a restart it is asked for a handshake there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
}

impl Store {
    /// Reads the file, or makes one with a new key. One that can't be read is an error: a new key would shut all clients out.
    pub fn open(file: &Path) -> io::Result<Self> {
        match fs::read(file) {
            Ok(bytes) => {
                let store: Self = serde_json::from_slice(&bytes).map_err(|e| {
                    io::Error::other(format!("{}: {e}; restore it from a backup, or remove it", file.display()))
                })?;
                Ok(Self { file: file.to_owned(), ..store })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let private_key = BASE64.encode(&host::random::<32>()?);
                let store = Self { file: file.to_owned(), private_key, clients: Vec::new() };
                store.save()?;
                Ok(store)
            }
            Err(e) => Err(e),
        }
    }

    pub fn save(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        keyfile::write_secret(&self.file, &text).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_kept_and_a_damaged_file_is_no_new_portal() {
        let dir = std::env::temp_dir().join(format!("aegisray-portal-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("portal.json");
        let mut store = Store::open(&file).unwrap();
        let entry = Entry {
            name: "phone".into(),
            number: 2,
            public_key: "a".into(),
            preshared_key: "b".into(),
            endpoint: None,
        };
        store.clients.push(entry);
        store.save().unwrap();
        let again = Store::open(&file).unwrap();
        assert_eq!((again.private_key, again.clients.len()), (store.private_key, 1));
        fs::write(&file, "{").unwrap();
        assert!(Store::open(&file).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
