//! IP headers: just enough to route a packet, to fragment it (RFC 791 §3.2) and to answer it with ICMP (RFC 792,
//! RFC 1191 §4, RFC 4443 §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Checksum;

/// Source and destination of an IP packet whose header is sound; `None` for anything else.
#[must_use]
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 if packet.len() >= header_len_v4(packet)? => {
            let a: [u8; 4] = packet[12..16].try_into().ok()?;
            let b: [u8; 4] = packet[16..20].try_into().ok()?;
            Some((Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into()))
        }
        6 if packet.len() >= 40 => {
            let a: [u8; 16] = packet[8..24].try_into().ok()?;
            let b: [u8; 16] = packet[24..40].try_into().ok()?;
            Some((Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into()))
        }
        _ => None,
    }
}

/// A number that is the same for all packets of a flow: of addresses and protocol, and of the ports where each of the
/// flow's packets has them.
#[must_use]
pub fn flow_hash(packet: &[u8]) -> u32 {
    let Some((addresses, protocol, transport, is_fragment)) = (match packet.first() {
        Some(b) if b >> 4 == 6 && packet.len() >= 40 => Some((&packet[8..40], packet[6], 40, false)),
        _ => header_len_v4(packet)
            .map(|len| (&packet[12..20], packet[9], len, u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0)),
    }) else {
        return 0;
    };
    let has_ports = matches!(protocol, 6 | 17) && !is_fragment;
    let ports = packet.get(transport..transport + 4).filter(|_| has_ports).unwrap_or_default();
    let words = addresses.chunks_exact(4).chain(ports.chunks_exact(4));
    let mixed = words.fold(u32::from(protocol), |hash, w| {
        (hash ^ u32::from_be_bytes([w[0], w[1], w[2], w[3]])).wrapping_mul(0x9e37_79b1).rotate_left(15)
    });
    mixed ^ mixed >> 16
}

/// The ECN field of a packet whose header is sound (RFC 3168 §5).
#[must_use]
pub fn ecn(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 6 { packet[1] >> 4 & 3 } else { packet[1] & 3 }
}

const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
/// Congestion experienced (RFC 3168 §5).
pub const CE: u8 = 3;

/// What the outer header says of congestion goes into a packet that leaves the tunnel (RFC 6040 §4.2, figure 4).
/// False: the packet must be dropped, because it was marked and its sender does not know of marks.
pub fn leave_tunnel(packet: &mut [u8], outer: u8) -> bool {
    let inner = ecn(packet);
    let new = match (inner, outer) {
        (0, CE) => return false,
        (ECT_0 | ECT_1, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return true,
    };
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xcf | new << 4;
    } else {
        let Some(header) = header_len_v4(packet) else { return true };
        packet[1] = packet[1] & 0xfc | new;
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..header]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

fn header_len_v4(packet: &[u8]) -> Option<usize> {
    let len = usize::from(packet.first()? & 0x0f) * 4;
    (len >= 20 && packet.len() >= len).then_some(len)
}

/// The Internet checksum over several parts, each but the last of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = Checksum::default();
    parts.iter().for_each(|part| sum.add(part));
    u16::from_be_bytes(sum.finish())
}

/// What becomes of a packet that is longer than its path allows.
#[derive(Debug, PartialEq, Eq)]
pub enum TooBig {
    /// IPv4 without "don't fragment": these pieces fit.
    Fragments(Vec<Vec<u8>>),
    /// An ICMP message for the sender.
    Icmp(Vec<u8>),
    /// Not a packet that may be answered.
    Drop,
}

/// Decides what to do with `packet`, which is longer than `mtu` bytes. An ICMP answer comes from the packet's
/// destination: the host would drop one from an address of its own as a Martian (RFC 1812 §5.3.7).
#[must_use]
pub fn too_big(packet: &[u8], mtu: usize) -> TooBig {
    let Some((_, from)) = addresses(packet) else { return TooBig::Drop };
    match packet.first().map(|b| b >> 4) {
        Some(4) => {
            let Some(header) = header_len_v4(packet) else { return TooBig::Drop };
            let dont_fragment = packet[6] & 0x40 != 0;
            let offset = usize::from(u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff) * 8;
            if packet.len() == header || offset + packet.len() > 65_535 {
                return TooBig::Drop;
            }
            if !dont_fragment && mtu >= header + 8 {
                return TooBig::Fragments(fragment_v4(packet, header, mtu));
            }
            let IpAddr::V4(from) = from else { return TooBig::Drop };
            icmp_v4(packet, 3, 4, (mtu as u32).min(0xffff), from).map_or(TooBig::Drop, TooBig::Icmp)
        }
        Some(6) => {
            let IpAddr::V6(from) = from else { return TooBig::Drop };
            icmp_v6(packet, 2, 0, mtu as u32, from).map_or(TooBig::Drop, TooBig::Icmp)
        }
        _ => TooBig::Drop,
    }
}

/// "Destination unreachable, no route" for `packet`: ICMP 3/0, or ICMPv6 1/0.
#[must_use]
pub fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
    let (_, from) = addresses(packet)?;
    match (packet.first()? >> 4, from) {
        (4, IpAddr::V4(from)) => icmp_v4(packet, 3, 0, 0, from),
        (6, IpAddr::V6(from)) => icmp_v6(packet, 1, 0, 0, from),
        _ => None,
    }
}

fn fragment_v4(packet: &[u8], header: usize, mtu: usize) -> Vec<Vec<u8>> {
    let step = (mtu - header) & !7;
    let flags = u16::from_be_bytes([packet[6], packet[7]]);
    let (base, more_after) = (flags & 0x1fff, flags & 0x2000);
    let body = &packet[header..];
    let pieces = body.chunks(step);
    let last = pieces.len() - 1;
    pieces
        .enumerate()
        .map(|(i, piece)| {
            let mut out = packet[..header].to_vec();
            out.extend_from_slice(piece);
            let more = if i < last { 0x2000 } else { more_after };
            let offset = base + (i * step / 8) as u16;
            out[2..4].copy_from_slice(&((header + piece.len()) as u16).to_be_bytes());
            out[6..8].copy_from_slice(&(more | offset).to_be_bytes());
            out[10..12].fill(0);
            let sum = checksum(&[&out[..header]]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            out
        })
        .collect()
}

fn icmp_v4(packet: &[u8], kind: u8, code: u8, rest: u32, from: Ipv4Addr) -> Option<Vec<u8>> {
    let header = header_len_v4(packet)?;
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[12..16]).ok()?);
    let is_later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
    let is_icmp_error = packet[9] == 1 && !matches!(packet.get(header), Some(0 | 8 | 13 | 14));
    if is_later_fragment || is_icmp_error || source.is_multicast() || source.is_unspecified() {
        return None;
    }
    let quote = &packet[..packet.len().min(header + 64)];
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend_from_slice(&rest.to_be_bytes());
    icmp.extend_from_slice(quote);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&source.octets());
    let total = (out.len() + icmp.len()) as u16;
    out[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = checksum(&[&out]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&icmp);
    Some(out)
}

fn icmp_v6(packet: &[u8], kind: u8, code: u8, rest: u32, from: Ipv6Addr) -> Option<Vec<u8>> {
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
    let is_icmp_error = packet[6] == 58 && packet.get(40).is_some_and(|t| t & 0x80 == 0);
    if packet.len() < 40 || is_icmp_error || source.is_multicast() || source.is_unspecified() {
        return None;
    }
    let quote = &packet[..packet.len().min(1280 - 48)];
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend_from_slice(&rest.to_be_bytes());
    icmp.extend_from_slice(quote);
    let length = (icmp.len() as u32).to_be_bytes();
    let mut quoted_even = icmp.clone();
    quoted_even.resize(icmp.len().next_multiple_of(2), 0);
    let sum = checksum(&[&from.octets(), &source.octets(), &length, &[0, 0, 0, 58], &quoted_even]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = vec![0x60, 0, 0, 0];
    out.extend_from_slice(&(icmp.len() as u16).to_be_bytes());
    out.extend_from_slice(&[58, 64]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&source.octets());
    out.extend_from_slice(&icmp);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp_v4(len: usize, dont_fragment: bool) -> Vec<u8> {
        let mut p = vec![0u8; len];
        p[0] = 0x45;
        p[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        p[6] = if dont_fragment { 0x40 } else { 0 };
        p[8] = 64;
        p[9] = 17;
        p[12..16].copy_from_slice(&[100, 64, 0, 1]);
        p[16..20].copy_from_slice(&[100, 64, 0, 2]);
        for (i, b) in p[20..].iter_mut().enumerate() {
            *b = i as u8;
        }
        p
    }

    #[test]
    fn fragments_carry_every_byte_once_and_have_sound_headers() {
        let packet = udp_v4(1420, false);
        let TooBig::Fragments(pieces) = too_big(&packet, 576) else { panic!() };
        let mut body = vec![0; 1400];
        for piece in &pieces {
            assert!(piece.len() <= 576);
            assert_eq!(checksum(&[&piece[..20]]), 0);
            let offset = usize::from(u16::from_be_bytes([piece[6], piece[7]]) & 0x1fff) * 8;
            body[offset..offset + piece.len() - 20].copy_from_slice(&piece[20..]);
        }
        assert_eq!(body, packet[20..]);
        assert_eq!(pieces.iter().filter(|p| p[6] & 0x20 == 0).count(), 1, "one last fragment");
    }

    #[test]
    fn a_packet_that_may_not_be_cut_is_answered() {
        let TooBig::Icmp(icmp) = too_big(&udp_v4(1420, true), 1372) else { panic!() };
        assert_eq!(checksum(&[&icmp[..20]]), 0);
        assert_eq!(checksum(&[&icmp[20..]]), 0);
        assert_eq!((icmp[20], icmp[21], u16::from_be_bytes([icmp[26], icmp[27]])), (3, 4, 1372));
        assert_eq!(addresses(&icmp).unwrap().1, "100.64.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(too_big(&icmp[..], 40), TooBig::Fragments(fragment_v4(&icmp, 20, 40)));
        let mut error = icmp.clone();
        error[6] = 0x40;
        assert_eq!(too_big(&error, 40), TooBig::Drop, "no error about an error");
    }

    #[test]
    fn ipv6_packet_too_big() {
        let mut p = vec![0u8; 1400];
        p[0] = 0x60;
        p[6] = 17;
        p[8] = 0xfd;
        p[24] = 0xfd;
        let TooBig::Icmp(icmp) = too_big(&p, 1372) else { panic!() };
        assert_eq!((icmp[40], u32::from_be_bytes([icmp[44], icmp[45], icmp[46], icmp[47]])), (2, 1372));
        assert!(icmp.len() <= 1280);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, mtu in 0usize..1500) {
            let _ = addresses(&bytes);
            let _ = too_big(&bytes, mtu);
            let header_only = [0x46, 0x46, 0, 24, 0, 0, 0, 0, 0, 0x38, 0, 0x43, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
            prop_assert_eq!(too_big(&header_only, mtu), TooBig::Drop, "found by the fuzzer");
            let _ = unreachable(&bytes);
        }
    }
}
