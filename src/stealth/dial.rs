//! Going to a site.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Client,
    http::{self, Proofs},
    proxy,
    seal::TlsSeal,
};
use crate::{
    config::{Proxy, Shaping, Site, Stealth},
    crypto::HmacKey,
    host,
    transport::Seal as _,
};

const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Clocks that are further apart keep members out.
const CLOCK_REACH: Duration = Duration::from_secs(100);

/// A visit of a site that has a node behind it.
pub(super) struct Visit {
    pub socket: TcpStream,
    pub seal: TlsSeal,
    /// Until the connection to the site stood.
    pub connect: Duration,
    /// From the ClientHello to the end of the handshake.
    pub handshake: Duration,
}

/// Opens streams through sites.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<Client>,
    network: HmacKey,
    proxy: Option<Proxy>,
    shaping: Shaping,
    resolve: Resolve,
}

/// Turns `HOST:PORT`, or `IP:PORT`, into addresses. May take seconds.
pub type Resolve = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

impl Dialer {
    /// `network` proves to sites that a member comes.
    #[must_use]
    pub fn new(tls: Client, network: HmacKey, stealth: &Stealth, resolve: Resolve) -> Self {
        Self { tls: Arc::new(tls), network, proxy: stealth.proxy.clone(), shaping: stealth.shaping, resolve }
    }

    fn reach(&self, address: &str) -> io::Result<TcpStream> {
        let mut why = io::Error::other("the name has no address");
        for addr in (self.resolve)(address)? {
            match host::connect(&addr, CONNECT_TIME) {
                Ok(socket) => return Ok(socket),
                Err(e) => why = e,
            }
        }
        Err(why)
    }

    /// A connection through a site to the node behind it. Takes seconds at the worst.
    pub fn dial(&self, site: &Site) -> io::Result<(TcpStream, TlsSeal)> {
        self.visit(site).map(|v| (v.socket, v.seal))
    }

    /// The same, with what it took.
    pub(super) fn visit(&self, site: &Site) -> io::Result<Visit> {
        let start = Instant::now();
        let mut socket = self.reach(self.proxy.as_ref().map_or(&site.address, |p| &p.address))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(ANSWER_TIME))?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        if let Some(proxy) = &self.proxy {
            proxy::pass(&mut socket, proxy, &site.address)?;
        }
        let connect = start.elapsed();
        let mut tls = self.tls.connect(&site.sni, Some(&self.network))?;
        super::shake_hands(&mut tls, &mut socket, ANSWER_TIME, &[], |_| ()).map_err(super::explain)?;
        let handshake = start.elapsed() - connect;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        let proofs = Proofs::of(&tls, &self.network)?;
        let seal = TlsSeal::new(tls, self.shaping)?;
        let mut out = Vec::new();
        let padding = seal.shape(http::REQUEST).1;
        seal.seal(&http::request(&site.sni, host::random()?, &proofs, padding), &mut out)?;
        socket.write_all(&out)?;
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        while http::head_end(&head).is_none() && head.len() < http::MAX_HEAD {
            let n = socket.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            seal.open(&buffer[..n], &mut head)?;
        }
        if !http::shows(&head, &proofs.server) {
            return Err(io::Error::other(format!(
                "a website answers: no node of this network is behind it{}",
                clock_difference(&head)
            )));
        }
        let end = http::head_end(&head).unwrap_or(head.len());
        seal.put_back(head.split_off(end));
        socket.set_read_timeout(None)?;
        Ok(Visit { socket, seal, connect, handshake })
    }
}

/// What there is to say of this host's clock, given a site's answer: passes are good for two minutes.
fn clock_difference(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let date = text.lines().filter_map(|l| l.split_once(": ")).find(|(name, _)| name.eq_ignore_ascii_case("date"));
    let Some(theirs) = date.and_then(|(_, date)| httpdate::parse_http_date(date).ok()) else {
        return ", or this host's clock is off by two minutes or more".to_owned();
    };
    let (off, way) = match SystemTime::now().duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if off < CLOCK_REACH {
        return String::new();
    }
    format!(", or it takes this one for a stranger: this host's clock is {} s {way} the site's", off.as_secs())
}
