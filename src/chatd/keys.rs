//! The identity of this node's person: 24 words, a master password, and the key of this device, sealed in `identity.json`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use bip39::{Language, Mnemonic};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    chat::{DeviceKey, Id},
    crypto::{AeadKey, Cipher, Rng, TAG_LEN},
    identity::keyfile::{KeyFileError, read_secret, write_secret},
};

/// Argon2id as RFC 9106 §4 recommends it for where memory is scarce: 64 MiB, three passes.
const MEMORY_KIB: u32 = 65_536;
const PASSES: u32 = 3;
/// What a file may ask for: a damaged or hostile one is not to take all memory.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 16;
const MIN_PASSWORD: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("there is no identity yet: make one with `aegisray chat identity new`")]
    None,
    #[error("there is an identity already: {0}")]
    Exists(Id),
    #[error("the identity is locked: `aegisray chat unlock`")]
    Locked,
    #[error("this is not the master password (or {0} is damaged)")]
    Password(String),
    #[error("expected a master password of at least {MIN_PASSWORD} characters")]
    Short,
    #[error("expected the 24 words of an identity: {0}")]
    Words(String),
    #[error("{0} is no identity: {1}")]
    File(String, String),
    #[error(transparent)]
    Io(#[from] KeyFileError),
}

/// `identity.json`. It is its own export: whoever has it and the password has the identity.
#[derive(Clone, Serialize, Deserialize)]
struct File {
    version: u32,
    identity: String,
    device: String,
    kdf: Kdf,
    /// AES-256-GCM over the seeds of identity and device, with everything above as associated data.
    sealed: String,
    /// Platforms that this identity is banned from: nothing brings it back there but an UNBAN.
    #[serde(rename = "BannedFrom", default)]
    banned_from: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Kdf {
    name: String,
    memory_kib: u32,
    passes: u32,
    /// Fresh at each sealing, and with it the key: no nonce comes twice.
    salt: String,
}

pub struct Keys {
    path: PathBuf,
    file: Option<File>,
    key: Option<DeviceKey>,
}

impl Keys {
    /// Reads the file, if there is one. It stays sealed.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let file = match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            _ => {
                let text = read_secret(path)?;
                let wrong = |e: String| KeyError::File(path.display().to_string(), e);
                let file: File = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
                if file.version != 1 || file.kdf.name != "argon2id" {
                    return Err(wrong("made by a newer version".to_owned()));
                }
                if file.kdf.memory_kib > MAX_MEMORY_KIB || file.kdf.passes > MAX_PASSES {
                    return Err(wrong(format!("it asks for {} KiB of memory", file.kdf.memory_kib)));
                }
                id(&file.identity).and(id(&file.device)).ok_or_else(|| wrong("not the keys' names".to_owned()))?;
                Some(file)
            }
        };
        Ok(Self { path: path.to_owned(), file, key: None })
    }

    /// Makes an identity, or with its words a new device of it. Returns the words, which nothing else keeps.
    pub fn create(&mut self, password: &str, words: Option<&str>, rng: &mut Rng) -> Result<String, KeyError> {
        self.check_new(password)?;
        let mnemonic = match words {
            None => Mnemonic::from_entropy(&rng.bytes::<32>()),
            Some(words) => {
                let words = words.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
                Mnemonic::parse_in_normalized(Language::English, &words)
            }
        };
        let mnemonic = mnemonic.map_err(|e| KeyError::Words(e.to_string()))?;
        let (entropy, len) = mnemonic.to_entropy_array();
        let root: [u8; 32] = entropy[..len].try_into().map_err(|_| KeyError::Words("there are fewer".to_owned()))?;
        self.take(&root, password, rng)?;
        Ok(mnemonic.to_string())
    }

    /// Whether an identity can be made or taken, and sealed with this password.
    pub fn check_new(&self, password: &str) -> Result<(), KeyError> {
        match self.identity() {
            Some(identity) => Err(KeyError::Exists(identity)),
            None if password.chars().count() < MIN_PASSWORD => Err(KeyError::Short),
            None => Ok(()),
        }
    }

    /// Makes this a device of the identity with these 32 bytes.
    pub fn take(&mut self, root: &[u8; 32], password: &str, rng: &mut Rng) -> Result<(), KeyError> {
        self.check_new(password)?;
        let device = rng.bytes();
        let key = DeviceKey::new(root, &device);
        let file = seal(&key, (root, &device), password, Vec::new(), rng)?;
        self.save(file)?;
        self.key = Some(key);
        Ok(())
    }

    /// The 32 bytes of the identity.
    pub fn root(&self, password: &str) -> Result<[u8; 32], KeyError> {
        self.seeds(password).map(|(root, _)| root)
    }

    fn save(&mut self, file: File) -> Result<(), KeyError> {
        let text = serde_json::to_string_pretty(&file).map_err(|e| KeyError::File(self.name(), e.to_string()))?;
        write_secret(&self.path, text.as_bytes())?;
        self.file = Some(file);
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub fn unlock(&mut self, password: &str) -> Result<(), KeyError> {
        let (root, device) = self.seeds(password)?;
        self.key = Some(DeviceKey::new(&root, &device));
        Ok(())
    }

    /// The 24 words of the identity.
    pub fn words(&self, password: &str) -> Result<String, KeyError> {
        let (root, _) = self.seeds(password)?;
        Ok(Mnemonic::from_entropy(&root).map_err(|e| KeyError::Words(e.to_string()))?.to_string())
    }

    fn seeds(&self, password: &str) -> Result<([u8; 32], [u8; 32]), KeyError> {
        let file = self.file.as_ref().ok_or(KeyError::None)?;
        let wrong = || KeyError::Password(self.name());
        let mut sealed = HEXLOWER.decode(file.sealed.as_bytes()).map_err(|_| wrong())?;
        let n = key(&file.kdf, password)?.open(0, &associated(file), &mut sealed).map_err(|_| wrong())?;
        let seeds = sealed.get(..n).filter(|s| s.len() == 64).ok_or_else(wrong)?;
        let half = |s: &[u8]| s.try_into().map_err(|_| wrong());
        Ok((half(&seeds[..32])?, half(&seeds[32..])?))
    }

    /// Seals the same seeds under another password.
    pub fn change_password(&mut self, old: &str, new: &str, rng: &mut Rng) -> Result<(), KeyError> {
        let (root, device) = self.seeds(old)?;
        let banned_from = self.file.as_ref().map(|f| f.banned_from.clone()).unwrap_or_default();
        let file = seal(&DeviceKey::new(&root, &device), (&root, &device), new, banned_from, rng)?;
        self.save(file)
    }

    pub fn lock(&mut self) {
        self.key = None;
    }

    pub fn unlocked(&self) -> Result<&DeviceKey, KeyError> {
        self.key.as_ref().ok_or(if self.file.is_none() { KeyError::None } else { KeyError::Locked })
    }

    #[must_use]
    pub fn is_unlocked(&self) -> bool {
        self.key.is_some()
    }

    #[must_use]
    pub fn identity(&self) -> Option<Id> {
        self.file.as_ref().and_then(|f| id(&f.identity))
    }

    #[must_use]
    pub fn device(&self) -> Option<Id> {
        self.file.as_ref().and_then(|f| id(&f.device))
    }

    #[must_use]
    pub fn is_banned_from(&self, platform: &Id) -> bool {
        let text = platform.to_string();
        self.file.as_ref().is_some_and(|f| f.banned_from.contains(&text))
    }

    #[must_use]
    pub fn banned_from(&self) -> &[String] {
        self.file.as_ref().map_or(&[], |f| &f.banned_from)
    }

    pub fn set_banned_from(&mut self, platform: &Id, banned: bool) -> Result<(), KeyError> {
        let Some(mut file) = self.file.clone() else { return Ok(()) };
        let text = platform.to_string();
        file.banned_from.retain(|p| *p != text);
        if banned {
            file.banned_from.push(text);
        }
        self.save(file)
    }
}

fn id(text: &str) -> Option<Id> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Id)
}

fn key(kdf: &Kdf, password: &str) -> Result<AeadKey, KeyError> {
    let wrong = |e: String| KeyError::File("identity.json".to_owned(), e);
    let params = Params::new(kdf.memory_kib, kdf.passes, 1, Some(32)).map_err(|e| wrong(e.to_string()))?;
    let salt = HEXLOWER.decode(kdf.salt.as_bytes()).map_err(|e| wrong(e.to_string()))?;
    let mut key = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(password.as_bytes(), &salt, &mut key).map_err(|e| wrong(e.to_string()))?;
    Ok(AeadKey::new(Cipher::Aes256Gcm, &key))
}

fn associated(file: &File) -> Vec<u8> {
    let kdf = &file.kdf;
    format!(
        "aegis/identity/{} {} {} {} {} {} {}",
        file.version, file.identity, file.device, kdf.name, kdf.memory_kib, kdf.passes, kdf.salt
    )
    .into_bytes()
}

fn seal(
    device: &DeviceKey,
    seeds: (&[u8; 32], &[u8; 32]),
    password: &str,
    banned_from: Vec<String>,
    rng: &mut Rng,
) -> Result<File, KeyError> {
    if password.chars().count() < MIN_PASSWORD {
        return Err(KeyError::Short);
    }
    let salt = HEXLOWER.encode(&rng.bytes::<16>());
    let kdf = Kdf { name: "argon2id".to_owned(), memory_kib: MEMORY_KIB, passes: PASSES, salt };
    let (identity, device) = (device.identity.to_string(), device.device.to_string());
    let mut file = File { version: 1, identity, device, kdf, sealed: String::new(), banned_from };
    let mut sealed = [seeds.0.as_slice(), seeds.1].concat();
    let tag: [u8; TAG_LEN] = key(&file.kdf, password)?.seal(0, &associated(&file), &mut sealed);
    sealed.extend(tag);
    file.sealed = HEXLOWER.encode(&sealed);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_it_and_words_bring_it_back() {
        let dir = std::env::temp_dir().join(format!("aegisray-keys-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, other) = (dir.join("identity.json"), dir.join("other.json"));
        let mut rng = Rng::from_seed([7; 32]);
        let mut keys = Keys::open(&path).unwrap();
        assert!(matches!(keys.unlocked(), Err(KeyError::None)));
        assert!(matches!(keys.create("short", None, &mut rng), Err(KeyError::Short)));
        let words = keys.create("correct horse", None, &mut rng).unwrap();
        assert_eq!(words.split(' ').count(), 24);
        let identity = keys.identity().unwrap();
        keys.set_banned_from(&Id([9; 32]), true).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"BannedFrom\"") && !text.contains(words.split(' ').next().unwrap()));

        let mut again = Keys::open(&path).unwrap();
        assert!(matches!(again.unlocked(), Err(KeyError::Locked)) && again.is_banned_from(&Id([9; 32])));
        assert!(matches!(again.unlock("wrong horse"), Err(KeyError::Password(_))));
        again.change_password("correct horse", "battery staple", &mut rng).unwrap();
        assert!(matches!(again.unlock("correct horse"), Err(KeyError::Password(_))));
        again.unlock("battery staple").unwrap();
        assert_eq!(again.unlocked().unwrap().identity, identity);
        // Nothing in the file can be exchanged: whose it is, say.
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"passes\": 3", "\"passes\": 2")).unwrap();
        assert!(matches!(Keys::open(&path).unwrap().unlock("battery staple"), Err(KeyError::Password(_))));

        let mut restored = Keys::open(&other).unwrap();
        assert!(matches!(restored.create("battery staple", Some("no words"), &mut rng), Err(KeyError::Words(_))));
        restored.create("battery staple", Some(&words.to_uppercase()), &mut rng).unwrap();
        assert_eq!(restored.identity(), Some(identity));
        assert_ne!(restored.device(), again.device(), "another device of the same person");
        fs::remove_dir_all(&dir).unwrap();
    }
}
