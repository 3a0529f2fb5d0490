//! Looks like the decoy to who watches a member's handshake: the decoy's choice of cipher suite and key exchange, and as
//! many bytes as the decoy's own first flight has.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, PublicKeyData as _, SerialNumber};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, NamedGroup, ServerConfig, ServerConnection,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::TLS13,
};

use super::{member, tls_error};
use crate::crypto::HmacKey;

const CONNECT_TIME: Duration = Duration::from_secs(5);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Signed certificate timestamps (RFC 6962 §3.3): what certificates have that may be of any length.
const STAMPS: [u64; 10] = [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];

/// What can be seen of a handshake with a decoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Face {
    suite: CipherSuite,
    group: NamedGroup,
    /// Bytes that it sends before the client has finished.
    flight: usize,
}

/// Visits the decoy as any client does. Its certificate must be good: a decoy that browsers warn of is none.
pub(super) fn look(addr: SocketAddr, name: ServerName<'static>, config: &Arc<ClientConfig>) -> io::Result<Face> {
    let mut socket = TcpStream::connect_timeout(&addr, CONNECT_TIME)?;
    socket.set_write_timeout(Some(HANDSHAKE_TIME))?;
    let client = ClientConnection::new(Arc::clone(config), name).map_err(tls_error)?;
    let mut connection = Connection::from(client);
    let flight = super::shake_hands(&mut connection, &mut socket, HANDSHAKE_TIME, &[]).map_err(super::explain)?;
    connection.send_close_notify();
    // It is of no interest whether it hears this.
    let _ = connection.write_tls(&mut socket);
    let suite = connection.negotiated_cipher_suite().ok_or_else(|| tls_error("no cipher suite"))?.suite();
    let group = connection.negotiated_key_exchange_group().ok_or_else(|| tls_error("no key exchange"))?.name();
    Ok(Face { suite, group, flight })
}

/// What members are let in with, behind the decoy's face.
pub(super) fn wear(
    face: Face,
    name: &str,
    network: &HmacKey,
    client: &Arc<ClientConfig>,
) -> io::Result<Arc<ServerConfig>> {
    let key = KeyPair::generate().map_err(tls_error)?;
    let mut padding = 0;
    let mut config = make(face, name, network, &key, padding)?;
    // The lengths of lengths change with what they count: a second and a third time hit.
    for _ in 0..4 {
        let flight = flight(&config, name, client)?;
        let exact = (padding + face.flight).saturating_sub(flight);
        if exact == padding {
            break;
        }
        padding = exact;
        config = make(face, name, network, &key, padding)?;
    }
    Ok(config)
}

fn make(face: Face, name: &str, network: &HmacKey, key: &KeyPair, padding: usize) -> io::Result<Arc<ServerConfig>> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(tls_error)?;
    params.distinguished_name.push(DnType::CommonName, name);
    // Positive whatever follows.
    let voucher = member::voucher(network, &key.subject_public_key_info());
    params.serial_number = Some(SerialNumber::from([&[1][..], &voucher].concat()));
    params.custom_extensions.push(CustomExtension::from_oid_content(&STAMPS, vec![0; padding]));
    let certificate = params.self_signed(key).map_err(tls_error)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|g| g.name() == face.group);
    provider.cipher_suites.retain(|s| s.suite() == face.suite);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate.into()], private).map_err(tls_error)?;
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The length of the first flight, seen from here.
fn flight(server: &Arc<ServerConfig>, name: &str, client: &Arc<ClientConfig>) -> io::Result<usize> {
    let name = ServerName::try_from(name.to_owned()).map_err(tls_error)?;
    let mut client = ClientConnection::new(Arc::clone(client), name).map_err(tls_error)?;
    let mut server = ServerConnection::new(Arc::clone(server)).map_err(tls_error)?;
    let (mut up, mut total) = (Vec::new(), 0);
    // A second round if the server wants another key share.
    for _ in 0..2 {
        up.clear();
        while client.wants_write() {
            client.write_tls(&mut up)?;
        }
        server.read_tls(&mut up.as_slice())?;
        server.process_new_packets().map_err(tls_error)?;
        let mut down = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut down)?;
        }
        total += down.len();
        client.read_tls(&mut down.as_slice())?;
        client.process_new_packets().map_err(tls_error)?;
        if !client.is_handshaking() {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_flight_is_as_long_as_the_decoys() {
        let network = HmacKey::new(&[1; 32]);
        let client = super::super::test_client(&network);
        let suite = CipherSuite::TLS13_AES_256_GCM_SHA384;
        for (group, flight) in [
            (NamedGroup::X25519, 1500),
            (NamedGroup::X25519MLKEM768, 4321),
            (NamedGroup::secp256r1, 2777),
            (NamedGroup::X25519, 3000),
        ] {
            let face = Face { suite, group, flight };
            let config = wear(face, "www.example.org", &network, &client).unwrap();
            assert_eq!(super::flight(&config, "www.example.org", &client).unwrap(), flight, "{group:?}");
        }
    }
}
