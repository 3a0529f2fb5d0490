//! What somebody who watches a cable sees of TCP and TLS.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use aegisray::lab::topology::Host;

use super::watch::watch;

/// A TCP segment over IPv4.
pub struct Segment<'a> {
    pub from: [u8; 4],
    pub to: [u8; 4],
    pub from_port: u16,
    pub to_port: u16,
    pub syn: bool,
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let is_tcp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 6;
        let ip_len = usize::from(u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]));
        let tcp = frame.get(14 + usize::from(frame[14] & 15) * 4..14 + ip_len)?;
        let payload = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let ip = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
        is_tcp.then(|| Self {
            from: ip(26),
            to: ip(30),
            from_port: port(0),
            to_port: port(2),
            syn: tcp[13] & 0x12 == 2,
            payload,
        })
    }
}

/// One connection to port 443: what each side sent, and when.
#[derive(Default)]
pub struct Connection {
    pub up: Vec<u8>,
    pub down: Vec<u8>,
    /// When the visitor sent something.
    pub times: Vec<Duration>,
}

impl Connection {
    /// The lengths of the encrypted records of one side.
    pub fn encrypted(bytes: &[u8]) -> Vec<usize> {
        records(bytes).into_iter().filter(|(kind, _)| *kind == 23).map(|(_, len)| len).collect()
    }
}

/// The kinds and lengths of TLS records, all of which say that they are of TLS 1.2 as those of 1.3 do; another version
/// makes another kind.
pub fn records(bytes: &[u8]) -> Vec<(u8, usize)> {
    let (mut rest, mut out) = (bytes, Vec::new());
    while let [kind @ 20..24, 3, minor, high, low, ..] = rest {
        let len = usize::from(*high) * 256 + usize::from(*low);
        out.push((if *minor == 3 { *kind } else { 0x80 | kind }, len));
        rest = rest.get(5 + len..).unwrap_or_default();
    }
    out
}

/// A capture of one cable.
#[derive(Default)]
pub struct Capture {
    pub frames: Vec<(Duration, Vec<u8>)>,
}

impl Capture {
    /// Watches the interfaces of `host` while `during` runs.
    pub fn of(host: &Host, during: impl FnOnce()) -> Self {
        let (start, mut frames) = (Instant::now(), Vec::new());
        watch(host, |frame| frames.push((start.elapsed(), frame.to_vec())), during).unwrap();
        Self { frames }
    }

    /// The connections to port 443 of `site`, in the order in which they were opened.
    pub fn connections(&self, site: &str) -> Vec<Connection> {
        let site = site.parse::<std::net::Ipv4Addr>().expect("an address").octets();
        let (mut open, mut order) = (BTreeMap::<_, Connection>::new(), Vec::new());
        for (at, frame) in &self.frames {
            let Some(segment) = Segment::of(frame) else { continue };
            let (visitor, is_up) = if (segment.to, segment.to_port) == (site, 443) {
                ((segment.from, segment.from_port), true)
            } else if (segment.from, segment.from_port) == (site, 443) {
                ((segment.to, segment.to_port), false)
            } else {
                continue;
            };
            if segment.syn && is_up {
                order.push(visitor);
            }
            let connection = open.entry(visitor).or_default();
            if is_up && !segment.payload.is_empty() {
                connection.times.push(*at);
            }
            let side = if is_up { &mut connection.up } else { &mut connection.down };
            side.extend_from_slice(segment.payload);
        }
        order.dedup();
        order.into_iter().filter_map(|visitor| open.remove(&visitor)).collect()
    }

    /// Writes a file that tshark and others read (pcap, Ethernet), with the TCP in it: what else a kernel says to its
    /// neighbours is not ours.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut out = Vec::new();
        for n in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 262_144, 1] {
            out.extend(n.to_le_bytes());
        }
        for (at, frame) in self.frames.iter().filter(|(_, frame)| Segment::of(frame).is_some()) {
            let len = frame.len() as u32;
            for n in [1_700_000_000 + at.as_secs() as u32, at.subsec_micros(), len, len] {
                out.extend(n.to_le_bytes());
            }
            out.extend_from_slice(frame);
        }
        fs::write(file, out)
    }
}
