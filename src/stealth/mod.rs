//! Floor 4: the disguise. Datagrams cross a TLS 1.3 connection to port 443 of what is a website to everybody else.
//!
//! Both ends prove inside TLS that they know the network's key, by MACs over a secret that this one connection has made
//! (RFC 9266). A node stands before a website of its own ([`Own`]), or before one that it sends strangers to ([`Borrowed`]);
//! there a pass in the ClientHello tells members. The mesh's own sessions run inside, end to end as ever.

mod borrowed;
#[cfg(feature = "browser-hello")]
mod browser;
pub mod check;
mod decoy;
mod dial;
mod door;
pub mod fingerprint;
pub mod hello;
mod http;
mod mask;
mod member;
mod own;
mod pages;
mod pass;
mod proxy;
mod seal;
mod shape;
mod tls;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use self::tls::Tls;
pub use self::{
    borrowed::Borrowed,
    dial::{Dialer, Resolve},
    door::Door,
    own::Own,
    pages::serve as serve_pages,
    seal::TlsSeal,
};
use crate::crypto::HmacKey;
use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};

/// Where distributions keep the certificates of public authorities.
const ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
/// What is spoken inside: a WebSocket is opened over this one.
const ALPN: &[u8] = b"http/1.1";

/// What is wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}: {1}")]
    Unreadable(String, String),
    #[error(
        "no certificates of public authorities on this host: install ca-certificates, or name a file (stealth.roots)"
    )]
    NoRoots,
    #[error("certificate and key: {0}")]
    Mismatch(String),
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |why: String| TlsError::Unreadable(file.display().to_string(), why);
    let all = CertificateDer::pem_file_iter(file).map_err(|e| unreadable(e.to_string()))?;
    let all: Result<Vec<_>, _> = all.collect();
    let all = all.map_err(|e| unreadable(e.to_string()))?;
    if all.is_empty() { Err(unreadable("holds no certificate in PEM".to_owned())) } else { Ok(all) }
}

/// The authorities in the file `roots`, or those that this host trusts.
fn authorities(roots: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let file = roots.or_else(|| ROOTS.iter().map(Path::new).find(|p| fs::exists(p).unwrap_or(false)));
    let mut store = RootCertStore::empty();
    // Some of what distributions ship is too old to be read.
    let (added, _) = store.add_parsable_certificates(certificates(file.ok_or(TlsError::NoRoots)?)?);
    if added == 0 { Err(TlsError::NoRoots) } else { Ok(store) }
}

/// TLS to servers that have nothing to do with the mesh.
pub fn public_client(roots: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Mismatch(e.to_string()))?;
    Ok(config.with_root_certificates(authorities(roots)?).with_no_client_auth())
}

/// How this node goes out.
pub struct Client {
    rustls: Arc<ClientConfig>,
    #[cfg(feature = "browser-hello")]
    browser: browser::Browser,
}

impl Client {
    /// Whose ClientHello sites see.
    pub const HELLO: &'static str =
        if cfg!(feature = "browser-hello") { "BoringSSL as Chromium 156" } else { "rustls" };

    /// Trusts the authorities in `roots`, or those that this host trusts, and the network.
    pub fn new(roots: Option<&Path>, network: &HmacKey) -> Result<Self, TlsError> {
        Self::with_store(authorities(roots)?, network)
    }

    fn with_store(store: RootCertStore, network: &HmacKey) -> Result<Self, TlsError> {
        let mismatch = |e: &dyn std::fmt::Display| TlsError::Mismatch(e.to_string());
        let public = WebPkiServerVerifier::builder_with_provider(Arc::new(store), member::provider());
        let public = public.build().map_err(|e| mismatch(&e))?;
        let trust = Arc::new(member::Trust { public, network: network.clone() });
        #[cfg(feature = "browser-hello")]
        let browser = browser::Browser::new(Arc::clone(&trust)).map_err(|e| mismatch(&e))?;
        let config = ClientConfig::builder_with_provider(member::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| mismatch(&e))?;
        let mut config = config.dangerous().with_custom_certificate_verifier(trust).with_no_client_auth();
        // What browsers offer.
        config.alpn_protocols = vec![b"h2".to_vec(), ALPN.to_vec()];
        // A ticket would be shown to whoever stands there next time.
        config.resumption = Resumption::disabled();
        Ok(Self {
            rustls: Arc::new(config),
            #[cfg(feature = "browser-hello")]
            browser,
        })
    }

    /// A connection to the site of that name, from its ClientHello on; with a pass in it for the door of `network`.
    fn connect(&self, name: &str, network: Option<&HmacKey>) -> io::Result<Tls> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| io::Error::other("the SNI is not a host name"))?;
        #[cfg(feature = "browser-hello")]
        {
            // Who makes the hello is not told its key share before: the pass is for any.
            let session_id = network.map(|n| pass::session_id(n, &[])).transpose()?;
            Ok(Tls::Browser(Box::new(self.browser.connect(name, session_id)?)))
        }
        #[cfg(not(feature = "browser-hello"))]
        Ok(rustls::Connection::from(member::connect(&self.rustls, name, network)?).into())
    }

    /// What this node says first to the site of that name.
    pub fn first_flight(&self, name: &str, network: &HmacKey) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.connect(name, Some(network))?.take(&mut out)?;
        Ok(out)
    }

    /// rustls with the same trust, whatever this node itself shows to sites.
    #[must_use]
    pub fn plain(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.rustls)
    }
}

/// How this node lets others in: with the certificate chain and the key of its site.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| TlsError::Unreadable(key.display().to_string(), e.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::Mismatch(e.to_string()))?;
    let mut config =
        config.with_no_client_auth().with_single_cert(chain, private).map_err(|e| TlsError::Mismatch(e.to_string()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Completes a handshake within `limit`, however slowly its bytes come. `first` was read from the socket before; `edit`
/// sees what is sent. Returns what the other end has sent.
fn shake_hands(
    tls: &mut Tls,
    socket: &mut TcpStream,
    limit: Duration,
    first: &[u8],
    mut edit: impl FnMut(&mut [u8]),
) -> io::Result<Vec<u8>> {
    let end = Instant::now() + limit;
    let (mut received, mut buffer, mut out) = (first.to_vec(), [0; 4096], Vec::new());
    let mut rest = first;
    loop {
        let outcome = if rest.is_empty() { Ok(()) } else { tls.feed(rest) };
        out.clear();
        tls.take(&mut out)?;
        edit(&mut out);
        // What is wrong is told as well; the other end may be gone.
        socket.write_all(&out)?;
        outcome?;
        if !tls.is_handshaking() {
            return Ok(received);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        rest = &buffer[..n];
        received.extend_from_slice(rest);
    }
}

/// Says what to do about a certificate that is refused.
fn explain(error: io::Error) -> io::Error {
    let refused = match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(refused)) => refused,
        _ => return error,
    };
    let what = match refused {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the site's certificate has expired, or this host's clock is ahead"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the site's certificate is not valid yet, or this host's clock is behind"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the site's certificate is for other names: check the sni"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the site's certificate is signed by an authority that this host doesn't know: see stealth.roots, and whether \
             somebody is in the middle"
        }
        _ => return error,
    };
    io::Error::other(what)
}

fn tls_error(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("TLS: {e}"))
}

#[cfg(test)]
fn test_client(network: &HmacKey) -> Client {
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
    let mut store = RootCertStore::empty();
    store.add(root.into()).unwrap();
    Client::with_store(store, network).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hello::FirstFlight;

    #[test]
    fn a_members_first_flight_is_let_in_once() {
        let network = HmacKey::new(&[1; 32]);
        let guard = pass::Guard::starting_at(network.clone(), 0);
        let flight = test_client(&network).first_flight("www.example.org", &network).unwrap();
        let FirstFlight::Hello(hello) = FirstFlight::read(&flight) else { panic!("a hello: {flight:02x?}") };
        assert!(guard.admits(&hello), "{hello:02x?}");
        assert!(!guard.admits(&hello), "shown again");
        let strangers = test_client(&network).first_flight("www.example.org", &HmacKey::new(&[2; 32])).unwrap();
        let FirstFlight::Hello(hello) = FirstFlight::read(&strangers) else { panic!("a hello") };
        assert!(!guard.admits(&hello));
    }
}
