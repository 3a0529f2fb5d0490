//! Chromium's TLS: BoringSSL, set up as Chromium sets it up, so that its ClientHello is Chromium's in every field.
//!
//! The certificate is verified as in every other build ([`Trust`]); BoringSSL verifies the handshake.
#![allow(unsafe_code)] // what Chromium asks of BoringSSL, and the `boring` crate has no function for

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use boring::ssl::{
    CertificateCompressionAlgorithm, CertificateCompressor, Error, ErrorCode, Ssl, SslAlert, SslContext, SslMethod,
    SslRef, SslSession, SslStream, SslVerifyError, SslVerifyMode, SslVersion,
};
use boring_sys as sys;
use foreign_types::{ForeignType as _, ForeignTypeRef as _};
use rustls::{
    client::danger::ServerCertVerifier as _,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{member::Trust, tls_error};

/// Chromium's suites for TLS 1.2; those for 1.3 are BoringSSL's own.
const SUITES: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
     ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES128-SHA:\
     ECDHE-RSA-AES256-SHA:AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA:AES256-SHA";
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";
/// ML-DSA-44 to -87, then ECDSA with P-256, RSA-PSS and PKCS #1 with SHA-256, and so on (RFC 8446 §4.2.3).
const SIGNATURES: [u16; 11] = [0x0904, 0x0905, 0x0906, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
/// The authorities that Chromium 156 asks for by their numbers (draft-ietf-tls-trust-anchor-ids): three owners of numbers,
/// and their last bytes.
const ANCHORS: [(&[u8], &[u8]); 3] = [
    (&[0x82, 0xdf, 0x13, 0x02], &[0x01, 0x06, 0x0d, 0x0e, 0x0f, 0x12, 0x13, 0x14]),
    (&[0x83, 0x9a, 0x64, 0x8c, 0x9b, 0x2d, 0x01], &[0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x12, 0x13]),
    (&[0xd6, 0x79, 0x09], &[0x01, 0x04, 0x05, 0x06, 0x07, 0x08, 0x0a, 0x0b, 0x0c, 0x0d, 0x0f]),
];
const ALPN: &[u8] = b"\x02h2\x08http/1.1";
/// TLS 1.3's limit on a certificate, decompressed.
const MAX_CERTIFICATE: u64 = 1 << 18;

/// Makes connections.
pub(super) struct Browser {
    context: SslContext,
    trust: Arc<Trust>,
}

/// Decompresses certificates as Chromium does (RFC 8879).
struct Brotli;

impl CertificateCompressor for Brotli {
    const ALGORITHM: CertificateCompressionAlgorithm = CertificateCompressionAlgorithm::BROTLI;
    const CAN_COMPRESS: bool = false;
    const CAN_DECOMPRESS: bool = true;

    fn decompress<W: Write>(&self, input: &[u8], output: &mut W) -> io::Result<()> {
        let plain = brotli_decompressor::Decompressor::new(input, 4096);
        io::copy(&mut plain.take(MAX_CERTIFICATE), output).map(|_| ())
    }
}

impl Browser {
    pub fn new(trust: Arc<Trust>) -> Result<Self, boring::error::ErrorStack> {
        let mut context = SslContext::builder(SslMethod::tls())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        context.set_max_proto_version(Some(SslVersion::TLS1_3))?;
        context.set_cipher_list(SUITES)?;
        context.set_curves_list(GROUPS)?;
        context.set_alpn_protos(ALPN)?;
        context.set_grease_enabled(true);
        context.set_permute_extensions(true);
        context.enable_ocsp_stapling();
        context.enable_signed_cert_timestamps();
        context.add_certificate_compression_algorithm(Brotli)?;
        let anchor = |owner: &[u8], last: u8| [&[owner.len() as u8 + 1][..], owner, &[last]].concat();
        let anchors: Vec<u8> =
            ANCHORS.iter().flat_map(|(owner, all)| all.iter().flat_map(move |last| anchor(owner, *last))).collect();
        // SAFETY: the context is alive, and both lists are copied.
        let set = unsafe {
            let context = context.as_ptr();
            sys::SSL_CTX_set_verify_algorithm_prefs(context, SIGNATURES.as_ptr(), SIGNATURES.len()) == 1
                && sys::SSL_CTX_set1_requested_trust_anchors(context, anchors.as_ptr(), anchors.len()) == 1
        };
        if !set {
            return Err(boring::error::ErrorStack::get());
        }
        Ok(Self { context: context.build(), trust })
    }

    /// A connection to the site of that name, with this session id in its hello.
    pub fn connect(&self, name: ServerName<'static>, session_id: Option<[u8; 32]>) -> io::Result<Stream> {
        let mut ssl = Ssl::new(&self.context).map_err(tls_error)?;
        ssl.set_hostname(&name.to_str()).map_err(tls_error)?;
        ssl.set_enable_ech_grease(true);
        // SAFETY: the connection is alive, and both strings are copied.
        let added = unsafe {
            sys::SSL_set_alps_use_new_codepoint(ssl.as_ptr(), 1);
            sys::SSL_add_application_settings(ssl.as_ptr(), b"h2".as_ptr(), 2, std::ptr::null(), 0)
        };
        if added != 1 {
            return Err(tls_error("no application settings"));
        }
        if let Some(id) = session_id {
            let session = SslSession::from_der(&old_session(&id)).map_err(tls_error)?;
            // SAFETY: the session was read without a context, so that it belongs to none.
            unsafe { ssl.set_session(&session) }.map_err(tls_error)?;
        }
        let refused = Arc::new(Mutex::new(None));
        let (trust, why) = (Arc::clone(&self.trust), Arc::clone(&refused));
        ssl.set_custom_verify_callback(SslVerifyMode::PEER, move |ssl| {
            verify(&trust, &name, ssl).map_err(|e| {
                *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                SslVerifyError::Invalid(SslAlert::BAD_CERTIFICATE)
            })
        });
        let mut stream =
            Stream { tls: SslStream::new(ssl, Pipe::default()).map_err(tls_error)?, is_handshaking: true, refused };
        stream.shake_hands()?;
        Ok(stream)
    }
}

fn verify(trust: &Trust, name: &ServerName<'static>, ssl: &SslRef) -> Result<(), rustls::Error> {
    let general = |e: &dyn std::fmt::Display| rustls::Error::General(e.to_string());
    let chain = ssl.peer_cert_chain().ok_or_else(|| general(&"no certificate"))?;
    let ders: Result<Vec<Vec<u8>>, _> = chain.iter().map(|c| c.to_der()).collect();
    let ders: Vec<_> = ders.map_err(|e| general(&e))?.into_iter().map(CertificateDer::from).collect();
    let (first, rest) = ders.split_first().ok_or_else(|| general(&"no certificate"))?;
    trust.verify_server_cert(first, rest, name, &[], UnixTime::now()).map(|_| ())
}

/// A session of TLS 1.2 that never was, in DER: the one way to choose a session id.
fn old_session(id: &[u8; 32]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8][..], content].concat();
    let number = |n: u64| element(2, &[&[0][..], &n.to_be_bytes()].concat());
    let body = [
        element(2, &[1]),
        // TLS 1.2, and a suite of it: ECDHE-RSA-AES128-GCM-SHA256.
        element(2, &[3, 3]),
        element(4, &[0xc0, 0x2f]),
        element(4, id),
        element(4, &[0; 48]),
        element(0xa1, &minimal(&number(now))),
        element(0xa2, &minimal(&number(7200))),
        // A client's.
        element(0xb6, &element(1, &[0])),
    ]
    .concat();
    // Less than 128 bytes, so that one is enough for the length.
    element(0x30, &body)
}

/// An INTEGER without leading zeros that its sign doesn't need.
fn minimal(integer: &[u8]) -> Vec<u8> {
    let mut content = &integer[2..];
    while let [0, next, ..] = content
        && next & 0x80 == 0
    {
        content = &content[1..];
    }
    [&[2, content.len() as u8][..], content].concat()
}

/// Bytes from and to the network.
#[derive(Default)]
struct Pipe {
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&self.input[self.taken..]).read(buffer)?;
        self.taken += n;
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        }
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection.
pub(super) struct Stream {
    tls: SslStream<Pipe>,
    is_handshaking: bool,
    /// Why the certificate was refused.
    refused: Arc<Mutex<Option<rustls::Error>>>,
}

impl Stream {
    fn shake_hands(&mut self) -> io::Result<()> {
        match self.tls.connect() {
            Ok(()) if self.tls.ssl().version2() == Some(SslVersion::TLS1_3) => {
                self.is_handshaking = false;
                Ok(())
            }
            Ok(()) => Err(tls_error("the site speaks an older version than 1.3")),
            Err(e) if e.code() == ErrorCode::WANT_READ => Ok(()),
            Err(e) => {
                let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(refused.map_or_else(|| tls_error(e), io::Error::other))
            }
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    pub fn feed(&mut self, received: &[u8]) -> io::Result<()> {
        self.tls.get_mut().input.extend_from_slice(received);
        if self.is_handshaking { self.shake_hands() } else { Ok(()) }
    }

    pub fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.tls.get_mut().output);
    }

    pub fn write(&mut self, mut plaintext: &[u8]) -> io::Result<()> {
        while !plaintext.is_empty() {
            let n = self.tls.ssl_write(plaintext).map_err(tls_error)?;
            plaintext = &plaintext[n..];
        }
        Ok(())
    }

    pub fn open(&mut self, received: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.feed(received)?;
        loop {
            let start = out.len();
            out.resize(start + (16 << 10), 0);
            let read: Result<usize, Error> = self.tls.ssl_read(&mut out[start..]);
            out.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(_) => {}
                Err(e) if e.code() == ErrorCode::WANT_READ => return Ok(()),
                Err(e) if e.code() == ErrorCode::ZERO_RETURN => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) => return Err(tls_error(e)),
            }
        }
    }

    pub fn close(&mut self) {
        // The other end may have closed before.
        let _ = self.tls.shutdown();
    }

    pub fn binding(&self, label: &str) -> io::Result<[u8; 32]> {
        let mut out = [0; 32];
        self.tls.ssl().export_keying_material(&mut out, label, None).map_err(tls_error)?;
        Ok(out)
    }

    pub fn choice(&self) -> Option<(u16, u16)> {
        let ssl = self.tls.ssl();
        let cipher = ssl.current_cipher()?;
        // SAFETY: the cipher is one of BoringSSL's own, which live for ever.
        let suite = unsafe { sys::SSL_CIPHER_get_protocol_id(cipher.as_ptr()) };
        Some((suite, ssl.curve()?))
    }
}
