//! A member's end of TLS: a ClientHello with a pass in it, and trust in certificates that the network vouches for.
//!
//! rustls asks its provider for randomness and key shares, and doesn't say for which connection. So both are prepared
//! before a connection is made, and handed out while it is being made, on the same thread.

use std::{cell::Cell, sync::Arc};

use rustls::{
    DigitallySignedStruct, Error, NamedGroup, ProtocolVersion, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SupportedKxGroup, aws_lc_rs},
    ffdhe_groups::FfdheGroup,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::{crypto::HmacKey, host};

#[cfg(not(feature = "browser-hello"))]
pub(super) use connect::connect;

thread_local! {
    static SESSION_ID: Cell<Option<[u8; 32]>> = const { Cell::new(None) };
    static SHARE: Cell<Option<Box<dyn ActiveKeyExchange>>> = const { Cell::new(None) };
}

#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        // The session id is the first that is asked for.
        if bytes.len() == 32
            && let Some(id) = SESSION_ID.take()
        {
            bytes.copy_from_slice(&id);
            return Ok(());
        }
        for chunk in bytes.chunks_mut(32) {
            let random: [u8; 32] = host::random().map_err(|_| GetRandomFailed)?;
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        Ok(())
    }
}

/// X25519MLKEM768, which every hello offers a share of.
#[derive(Debug)]
struct Hybrid;

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        SHARE.take().map_or_else(|| aws_lc_rs::kx_group::X25519MLKEM768.start(), Ok)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        aws_lc_rs::kx_group::X25519MLKEM768.usable_for_version(version)
    }
}

/// The library's own, but for what is prepared.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.secure_random = &Random;
    // Whoever offers no TLS 1.2 offers no suites of it.
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    for group in &mut provider.kx_groups {
        if group.name() == NamedGroup::X25519MLKEM768 {
            *group = &Hybrid;
        }
    }
    Arc::new(provider)
}

#[cfg(not(feature = "browser-hello"))]
mod connect {
    use std::io;

    use rustls::{ClientConfig, ClientConnection};

    use super::*;
    use crate::stealth::{pass, tls_error};

    /// A connection whose ClientHello shows a pass, if there is a network to show it for. `config` is one with [`provider`].
    pub(in crate::stealth) fn connect(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        network: Option<&HmacKey>,
    ) -> io::Result<ClientConnection> {
        if let Some(network) = network {
            let share = aws_lc_rs::kx_group::X25519MLKEM768.start().map_err(tls_error)?;
            SESSION_ID.set(Some(pass::session_id(network, share.pub_key())?));
            SHARE.set(Some(share));
        }
        let connection = ClientConnection::new(Arc::clone(config), name);
        // Nothing is left for another connection.
        SESSION_ID.set(None);
        SHARE.set(None);
        connection.map_err(tls_error)
    }
}

/// What a certificate carries that the network vouches for: a MAC over its public key.
pub(super) fn voucher(network: &HmacKey, public_key: &[u8]) -> [u8; 16] {
    network.tag(&[b"aegisray voucher v1", public_key])
}

/// Trusts what the public authorities have signed, and what the network vouches for.
#[derive(Debug)]
pub(super) struct Trust {
    pub public: Arc<WebPkiServerVerifier>,
    pub network: HmacKey,
}

impl Trust {
    /// Whoever can make a voucher knows the network's key; whoever uses the certificate has its private key.
    fn is_vouched_for(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
        let voucher = voucher(&self.network, parsed.subject_public_key_info().as_ref());
        certificate.as_ref().windows(voucher.len()).any(|w| w == voucher)
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.is_vouched_for(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        self.public.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}
