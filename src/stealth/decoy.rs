//! Looks like the decoy to who watches a member's handshake: the decoy's choice of cipher suite and key exchange, and
//! records of the lengths that the decoy's have.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _, SerialNumber};
use rustls::{
    CipherSuite, ContentType, NamedGroup, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::TLS13,
};

use super::{
    Client,
    mask::{self, Lengths},
    member, tls_error,
};
use crate::crypto::HmacKey;

const CONNECT_TIME: Duration = Duration::from_secs(5);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// So long nothing comes, and nothing more is to come.
const QUIET: Duration = Duration::from_millis(500);

/// What can be seen of a handshake with a decoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Face {
    suite: CipherSuite,
    group: NamedGroup,
    lengths: Lengths,
}

impl Face {
    /// Whether the difference is more than chance: signatures are of one of three lengths.
    pub fn differs(&self, other: &Self) -> bool {
        let all = |f: &Self| [f.lengths.flight.clone(), f.lengths.tickets.clone()];
        let counts = |f: &Self| all(f).map(|l| l.len());
        let are_close =
            || all(self).iter().flatten().zip(all(other).iter().flatten()).all(|(a, b)| a.abs_diff(*b) <= 3);
        (self.suite, self.group, counts(self)) != (other.suite, other.group, counts(other)) || !are_close()
    }
}

/// Visits the decoy as any client does. Its certificate must be good: a decoy that browsers warn of is none.
pub(super) fn look(addr: SocketAddr, name: &str, client: &Client) -> io::Result<Face> {
    let mut socket = crate::host::connect(&addr, CONNECT_TIME)?;
    socket.set_write_timeout(Some(HANDSHAKE_TIME))?;
    let mut tls = client.connect(name, None)?;
    let mut received =
        super::shake_hands(&mut tls, &mut socket, HANDSHAKE_TIME, &[], |_| ()).map_err(super::explain)?;
    let flight = encrypted_records(&received);
    // What it sends now, nobody has asked for.
    socket.set_read_timeout(Some(QUIET))?;
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        received.extend_from_slice(&buffer[..n]);
    }
    let tickets = encrypted_records(&received).split_off(flight.len());
    let (suite, group) = tls.choice().ok_or_else(|| tls_error("no cipher suite"))?;
    let mut goodbye = Vec::new();
    tls.close();
    tls.take(&mut goodbye)?;
    // It is of no interest whether it hears this.
    let _ = socket.write_all(&goodbye);
    Ok(Face { suite: suite.into(), group: group.into(), lengths: Lengths { flight, tickets } })
}

/// The lengths of whole records after the ServerHello.
fn encrypted_records(received: &[u8]) -> Vec<usize> {
    let (mut rest, mut lengths) = (received, Vec::new());
    while let [kind, _, _, high, low, payload @ ..] = rest {
        let len = usize::from(*high) << 8 | usize::from(*low);
        if payload.len() < len {
            break;
        }
        if *kind == u8::from(ContentType::ApplicationData) {
            lengths.push(len);
        }
        rest = &payload[len..];
    }
    lengths
}

/// What members are let in with, behind the decoy's face.
pub(super) fn wear(face: &Face, name: &str, network: &HmacKey) -> io::Result<Arc<ServerConfig>> {
    let key = KeyPair::generate().map_err(tls_error)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(tls_error)?;
    params.distinguished_name.push(DnType::CommonName, name);
    // Positive whatever follows.
    let voucher = member::voucher(network, &key.subject_public_key_info());
    params.serial_number = Some(SerialNumber::from([&[1][..], &voucher].concat()));
    let certificate = params.self_signed(&key).map_err(tls_error)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|g| g.name() == face.group);
    let suite = provider.cipher_suites.iter().find(|s| s.suite() == face.suite).and_then(|s| s.tls13());
    provider.cipher_suites = suite.map(|s| mask::suite(s, face.lengths.clone())).into_iter().collect();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate.into()], private).map_err(tls_error)?;
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    config.send_tls13_tickets = face.lengths.tickets.len();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustls::{Connection, ServerConnection};

    use super::*;
    use crate::stealth::tls::Tls;

    /// A server that lets one visitor in, over loopback; then what the visitor has seen of it.
    fn seen(config: Arc<ServerConfig>, client: &Client) -> Face {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut tls = Tls::from(Connection::from(ServerConnection::new(config).unwrap()));
            mask::begin();
            super::super::shake_hands(&mut tls, &mut socket, HANDSHAKE_TIME, &[], mask::finish).unwrap();
            // And then it talks: records after those that were split are in order as well.
            let mut out = Vec::new();
            tls.write(b"hello").and_then(|()| tls.take(&mut out)).unwrap();
            std::thread::sleep(QUIET * 2);
            socket.write_all(&out).unwrap();
            let _ = socket.read(&mut [0; 64]);
        });
        let face = look(addr, "www.example.org", client).unwrap();
        server.join().unwrap();
        face
    }

    #[test]
    fn every_record_of_the_handshake_is_as_long_as_the_decoys() {
        let network = HmacKey::new(&[1; 32]);
        let client = super::super::test_client(&network);
        for (suite, group, flight, tickets) in [
            (CipherSuite::TLS13_AES_256_GCM_SHA384, NamedGroup::X25519, vec![36, 1030, 95, 69], vec![250, 250]),
            (CipherSuite::TLS13_AES_128_GCM_SHA256, NamedGroup::X25519MLKEM768, vec![3421], vec![]),
            (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, NamedGroup::secp256r1, vec![27, 4000, 281, 53], vec![300]),
        ] {
            let face = Face { suite, group, lengths: Lengths { flight, tickets } };
            assert_eq!(seen(wear(&face, "www.example.org", &network).unwrap(), &client), face);
        }
    }

    #[test]
    fn a_network_does_not_vouch_for_anothers_certificates() {
        let (mine, other) = (HmacKey::new(&[1; 32]), HmacKey::new(&[2; 32]));
        let client = super::super::test_client(&mine);
        let lengths = Lengths { flight: vec![2000], tickets: vec![] };
        let face = Face { suite: CipherSuite::TLS13_AES_128_GCM_SHA256, group: NamedGroup::X25519, lengths };
        let mut server = ServerConnection::new(wear(&face, "www.example.org", &other).unwrap()).unwrap();
        let mut client = client.connect("www.example.org", None).unwrap();
        let mut bytes = Vec::new();
        client.take(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        mask::begin();
        server.process_new_packets().unwrap();
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        mask::finish(&mut bytes);
        let refused = client.feed(&bytes).unwrap_err();
        let refused = refused.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        assert!(matches!(refused, Some(rustls::Error::InvalidCertificate(_))), "{refused:?}");
    }
}
