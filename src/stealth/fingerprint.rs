//! What detectors make of the first bytes of a connection.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};

use super::hello::{Fields, numbers, vector};

const SNI: u16 = 0;
const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURES: u16 = 13;
const ALPN: u16 = 16;
const VERSIONS: u16 = 43;

/// The fingerprints of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// JA3, the MD5 of versions, suites, extensions, groups and formats in the order in which they are sent.
    pub ja3: String,
    /// JA4, of suites and extensions without their order.
    pub ja4: String,
    /// What JA4 hashes: suites, and extensions with signature algorithms.
    pub fields: (String, String),
    /// The names of the protocols offered.
    pub alpn: Vec<String>,
    /// Bytes on the wire.
    pub len: usize,
    /// The extensions, without the reserved ones.
    pub extensions: BTreeMap<u16, Vec<u8>>,
    /// Reserved values that only browsers send (RFC 8701).
    pub has_grease: bool,
}

impl Fingerprint {
    /// Of a flight that begins with a ClientHello, in records. `None` if it doesn't.
    #[must_use]
    pub fn of(flight: &[u8]) -> Option<Self> {
        let (mut rest, mut message) = (flight, Vec::new());
        while let [22, 3, _, high, low, payload @ ..] = rest {
            let len = usize::from(*high) << 8 | usize::from(*low);
            message.extend_from_slice(payload.get(..len)?);
            rest = &payload[len..];
        }
        let fields = Fields::parse(message.get(4..)?).filter(|_| message[0] == 1)?;
        let has_grease = fields.suites.iter().any(|s| is_grease(*s));
        let suites: Vec<u16> = fields.suites.iter().copied().filter(|s| !is_grease(*s)).collect();
        let extensions: Vec<u16> = fields.extensions.iter().map(|e| e.0).filter(|e| !is_grease(*e)).collect();
        let list = |kind: u16, length_bytes: usize| {
            let mut content = fields.extension(kind).unwrap_or_default();
            let numbers = numbers(vector(&mut content, length_bytes).unwrap_or_default());
            numbers.into_iter().filter(|n| !is_grease(*n)).collect::<Vec<u16>>()
        };
        let (groups, signatures, versions) = (list(GROUPS, 2), list(SIGNATURES, 2), list(VERSIONS, 1));
        let mut formats = fields.extension(POINT_FORMATS).unwrap_or_default();
        let formats: Vec<u16> = vector(&mut formats, 1).unwrap_or_default().iter().map(|f| u16::from(*f)).collect();
        let alpn = protocols(fields.extension(ALPN).unwrap_or_default());
        let dashed = |numbers: &[u16]| numbers.iter().map(u16::to_string).collect::<Vec<_>>().join("-");
        let ja3 = format!(
            "{},{},{},{},{}",
            fields.version,
            dashed(&suites),
            dashed(&extensions),
            dashed(&groups),
            dashed(&formats)
        );
        let version = match versions.iter().max().unwrap_or(&fields.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            _ => "00",
        };
        let sni = if fields.extension(SNI).is_some() { 'd' } else { 'i' };
        let ends = alpn.first().and_then(|a| Some([a.chars().next()?, a.chars().last()?]));
        let ends: String = ends.map_or_else(|| "00".to_owned(), |e| e.iter().collect());
        let sorted = |mut numbers: Vec<u16>| {
            numbers.sort_unstable();
            hexes(&numbers)
        };
        let kept = extensions.iter().copied().filter(|e| *e != SNI && *e != ALPN).collect();
        let hashed = (sorted(suites.clone()), format!("{}_{}", sorted(kept), hexes(&signatures)));
        let ja4 = format!(
            "t{version}{sni}{:02}{:02}{ends}_{}_{}",
            suites.len().min(99),
            extensions.len().min(99),
            short_hash(&hashed.0),
            short_hash(&hashed.1)
        );
        let ja3 = data_encoding::HEXLOWER.encode(&Md5::digest(ja3.as_bytes()));
        let contents = fields.extensions.iter().filter(|e| !is_grease(e.0)).map(|e| (e.0, e.1.to_vec())).collect();
        Some(Self { ja3, ja4, extensions: contents, fields: hashed, alpn, len: flight.len() - rest.len(), has_grease })
    }
}

/// Reserved for clients that keep servers tolerant (RFC 8701 §2).
#[must_use]
pub fn is_grease(n: u16) -> bool {
    n & 0x0f0f == 0x0a0a && n >> 8 == n & 0xff
}

fn protocols(mut content: &[u8]) -> Vec<String> {
    let (mut list, mut out) = (vector(&mut content, 2).unwrap_or_default(), Vec::new());
    while let Some(name) = vector(&mut list, 1) {
        out.push(String::from_utf8_lossy(name).into_owned());
    }
    out
}

fn hexes(numbers: &[u16]) -> String {
    numbers.iter().map(|n| format!("{n:04x}")).collect::<Vec<_>>().join(",")
}

fn short_hash(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    data_encoding::HEXLOWER.encode(&hash.as_ref()[..6])
}

/// Why a firewall lets a first packet pass that blocks what looks encrypted from its first byte on (Wu et al., "How the Great
/// Firewall of China Detects and Blocks Fully Encrypted Traffic", USENIX Security 2023, §4); `None`: it is blocked.
#[must_use]
pub fn passes_as(first: &[u8]) -> Option<&'static str> {
    const METHODS: [&[u8]; 8] = [b"GET ", b"PUT ", b"POST ", b"HEAD ", b"OPTIONS ", b"DELETE ", b"CONNECT ", b"PATCH "];
    let bits: u32 = first.iter().map(|b| b.count_ones()).sum();
    let bits_per_byte = f64::from(bits) / first.len().max(1) as f64;
    let is_printable = |b: &u8| (0x20..=0x7e).contains(b);
    let printable = first.iter().filter(|b| is_printable(b)).count();
    let longest = first.split(|b| !is_printable(b)).map(<[u8]>::len).max().unwrap_or(0);
    if matches!(first, [0x16 | 0x17, 3, 0..=9, ..]) {
        Some("TLS")
    } else if METHODS.iter().any(|m| first.starts_with(m)) {
        Some("HTTP")
    } else if first.len() >= 6 && first[..6].iter().all(is_printable) {
        Some("printable at its beginning")
    } else if printable * 2 > first.len() {
        Some("printable for the most part")
    } else if longest > 20 {
        Some("printable in a long run")
    } else if bits_per_byte <= 3.4 || bits_per_byte >= 4.6 {
        Some("too few or too many bits set")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::HmacKey, stealth};

    #[test]
    fn our_hello_has_a_fingerprint_and_it_stays_the_same() {
        let network = HmacKey::new(&[1; 32]);
        let of = || Fingerprint::of(&stealth::test_client(&network).first_flight("www.example.org", &network).unwrap());
        let (one, two) = (of().unwrap(), of().unwrap());
        assert_eq!(one.ja4, two.ja4);
        assert!(one.ja4.starts_with("t13d") && one.ja4.len() == 36, "{}", one.ja4);
        assert_eq!(one.alpn, ["h2", "http/1.1"]);
        assert_eq!(one.has_grease, cfg!(feature = "browser-hello"));
        assert_ne!(one.ja3, two.ja3, "the order of the extensions varies");
        assert!(Fingerprint::of(b"GET / HTTP/1.1\r\n\r\n").is_none());
    }

    /// The example of the JA4 specification's own documentation, with its lists.
    #[test]
    fn ja4_hashes_sorted_lists() {
        let suites = "002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9";
        assert_eq!(short_hash(suites), "8daaf6152771");
        let rest = "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01_0403,0804,0401,0503,0805,0501,0806,0601";
        assert_eq!(short_hash(rest), "e5627efa2ab1");
        assert!(is_grease(0x0a0a) && is_grease(0xfafa) && !is_grease(0x0a1a) && !is_grease(0x1301));
    }

    #[test]
    fn what_looks_encrypted_is_told_from_what_does_not() {
        let mut random = vec![0; 200];
        let mut state = 1u32;
        for byte in &mut random {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        assert_eq!(passes_as(&random), None);
        assert_eq!(passes_as(&[&[0x16, 3, 1][..], &random].concat()), Some("TLS"));
        assert_eq!(passes_as(&[&b"GET "[..], &random].concat()), Some("HTTP"));
        assert_eq!(passes_as(&[&b"abcdef"[..], &random].concat()), Some("printable at its beginning"));
        assert_eq!(passes_as(&[0; 100]), Some("too few or too many bits set"));
    }
}
