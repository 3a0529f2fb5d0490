//! Going to a site.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use rustls::{CertificateError, ClientConfig, ClientConnection, Connection, pki_types::ServerName};

use super::{
    http::{self, Proofs},
    proxy,
    seal::TlsSeal,
    tls_error,
};
use crate::{
    config::{Proxy, Site},
    crypto::HmacKey,
    host,
    transport::Seal as _,
};

const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Opens streams through sites.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
    network: HmacKey,
    proxy: Option<Proxy>,
}

impl Dialer {
    /// `network` proves to sites that a member comes; `proxy` is on the way, if the network asks for one.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>, network: HmacKey, proxy: Option<Proxy>) -> Self {
        Self { tls, network, proxy }
    }

    /// A connection through a site to the node behind it. Takes seconds at the worst.
    pub fn dial(&self, site: &Site) -> io::Result<(TcpStream, TlsSeal)> {
        let name =
            ServerName::try_from(site.sni.clone()).map_err(|_| io::Error::other("the SNI is not a host name"))?;
        let mut socket = connect(self.proxy.as_ref().map_or(&site.address, |p| &p.address))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(ANSWER_TIME))?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        if let Some(proxy) = &self.proxy {
            proxy::pass(&mut socket, proxy, &site.address)?;
        }
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).map_err(tls_error)?;
        let mut connection = Connection::from(tls);
        super::shake_hands(&mut connection, &mut socket, ANSWER_TIME).map_err(explain)?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        let proofs = Proofs::of(&connection, &self.network).ok_or_else(|| tls_error("no channel binding"))?;
        let seal = TlsSeal::new(connection);
        let mut out = Vec::new();
        seal.seal(&http::request(&site.sni, host::random()?, &proofs), &mut out)?;
        socket.write_all(&out)?;
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        while http::head_end(&head).is_none() && head.len() < http::MAX_HEAD {
            let n = socket.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            seal.open(&buffer[..n], &mut head)?;
        }
        // What follows the head would be a datagram, which the other end does not send before this one has.
        if !http::shows(&head, &proofs.server) {
            return Err(io::Error::other("a website answers: no node of this network is behind it"));
        }
        socket.set_read_timeout(None)?;
        Ok((socket, seal))
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

fn connect(address: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut why = io::Error::other("the name has no address");
    for addr in addresses {
        match TcpStream::connect_timeout(&addr, CONNECT_TIME) {
            Ok(socket) => return Ok(socket),
            Err(e) => why = e,
        }
    }
    Err(why)
}
