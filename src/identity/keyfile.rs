//! Key files: PKCS#8 in PEM (RFC 7468), mode 0600.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use data_encoding::BASE64;

use zeroize::Zeroizing;

use super::Identity;
use crate::crypto::{CryptoError, SigningKey};

/// Why a key file can't be used. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot read {0}: {1}")]
    Read(String, #[source] io::Error),
    #[error("cannot write {0}: {1}")]
    Write(String, #[source] io::Error),
    #[error("{0} can be read by others (mode {1:04o}): run `chmod 600 {0}`")]
    TooOpen(String, u32),
    #[error("{0} holds no {1}")]
    Content(String, &'static str),
}

impl KeyFileError {
    /// Why the file could not be read or written, for who names the file himself.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Read(_, error) | Self::Write(_, error) => error,
            other => io::Error::other(other),
        }
    }
}

/// A secret file must not be readable by group or others.
fn judge(name: &str, meta: io::Result<fs::Metadata>) -> Result<(), KeyFileError> {
    let meta = meta.map_err(|e| KeyFileError::Read(name.to_owned(), e))?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyFileError::TooOpen(name.to_owned(), mode)) }
}

/// Whether a file that somebody else reads is fit for a secret.
pub fn check_mode(path: &Path) -> Result<(), KeyFileError> {
    judge(&path.display().to_string(), fs::metadata(path))
}

/// Reads a secret file, which must not be readable by group or others.
pub fn read_secret(path: &Path) -> Result<String, KeyFileError> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|e| KeyFileError::Read(name.clone(), e))?;
    judge(&name, file.metadata())?;
    io::read_to_string(io::Read::take(file, 64 * 1024)).map_err(|e| KeyFileError::Read(name, e))
}

/// Writes `content` with mode 0600 so that a crash leaves the old file or the new one, never half of one.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let wrong = |e| KeyFileError::Write(path.display().to_string(), e);
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(wrong)?;
    }
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        // Half of it is of no use, and on a disk that is full in the way.
        let _ = fs::remove_file(&temporary);
        wrong(e)
    })
}

/// Reads an identity's private key.
pub fn read_identity(path: &Path) -> Result<Identity, KeyFileError> {
    let text = read_secret(path)?;
    let wrong = || KeyFileError::Content(path.display().to_string(), "PKCS#8 private key in PEM (RSA or Ed25519)");
    let der = pem_decode("PRIVATE KEY", &text).ok_or_else(wrong)?;
    SigningKey::from_pkcs8(&der).and_then(Identity::new).map_err(|_| wrong())
}

/// An identity's private key in PEM.
pub fn identity_pem(identity: &Identity) -> Result<Zeroizing<String>, CryptoError> {
    let der = Zeroizing::new(identity.signing.to_pkcs8()?);
    Ok(Zeroizing::new(pem_encode("PRIVATE KEY", &der)))
}

/// Writes an identity's private key.
pub fn write_identity(path: &Path, identity: &Identity) -> Result<(), KeyFileError> {
    let wrong = |_| KeyFileError::Content(path.display().to_string(), "key that can be encoded");
    write_secret(path, identity_pem(identity).map_err(wrong)?.as_bytes())
}

/// Reads an authority's public key, a certificate or another public block.
pub fn read_public(path: &Path, label: &'static str) -> Result<Vec<u8>, KeyFileError> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|e| KeyFileError::Read(name.clone(), e))?;
    pem_decode(label, &text).ok_or(KeyFileError::Content(name, label))
}

/// Wraps DER or other bytes as PEM.
#[must_use]
pub fn pem_encode(label: &str, bytes: &[u8]) -> String {
    let body = BASE64.encode(bytes);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// The first block of that label in a PEM text.
#[must_use]
pub fn pem_decode(label: &str, text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let compact: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64.decode(compact.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Algorithm;

    #[test]
    fn files_round_trip_and_open_ones_are_refused() {
        let dir = std::env::temp_dir().join(format!("aegisray-keyfile-{}", std::process::id()));
        let path = dir.join("identity.pem");
        let identity = Identity::generate(Algorithm::Rsa2048).unwrap();
        write_identity(&path, &identity).unwrap();
        let again = read_identity(&path).unwrap();
        assert_eq!(again.id(), identity.id());
        assert_eq!(again.noise_public(), identity.noise_public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_identity(&path), Err(KeyFileError::TooOpen(_, 0o644))));
        write_secret(&path, b"nonsense").unwrap();
        assert!(matches!(read_identity(&path), Err(KeyFileError::Content(..))));
        assert!(matches!(read_identity(&dir.join("none")), Err(KeyFileError::Read(..))));
        fs::remove_dir_all(dir).unwrap();
    }
}
