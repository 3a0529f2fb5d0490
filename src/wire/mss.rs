//! The maximum segment size that TCP ends announce (RFC 9293 §3.7.1), lowered to what the mesh carries: who forwards
//! into the mesh may never hear that a packet was too big.

use super::vnet::TCP;

const SYN: u8 = 0x02;
const MSS: u8 = 2;

/// Whether a packet opens a TCP connection, whatever its IP version.
fn syn_header(packet: &[u8]) -> Option<usize> {
    let (protocol, ip) = match packet.first()? >> 4 {
        4 if *packet.get(6)? & 0x1f == 0 && *packet.get(7)? == 0 => (*packet.get(9)?, usize::from(packet[0] & 15) * 4),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    (protocol == TCP && packet.get(ip + 13)? & SYN != 0).then_some(ip)
}

/// Lowers the segment size that a SYN announces to what fits packets of `mtu` bytes, if it is larger. `mtu` is asked
/// for only then.
pub fn clamp(packet: &mut [u8], mtu: impl FnOnce() -> usize) {
    let Some(ip) = syn_header(packet) else { return };
    let end = (ip + usize::from(packet[ip + 12] >> 4) * 4).min(packet.len());
    let limit = u16::try_from(mtu().saturating_sub(ip.max(20) + 20)).unwrap_or(u16::MAX);
    let mut at = ip + 20;
    while at < end {
        match packet[at] {
            0 => return,
            1 => at += 1,
            kind => {
                let Some(len) = packet.get(at + 1).copied().map(usize::from).filter(|l| *l >= 2 && at + *l <= end)
                else {
                    return;
                };
                if kind == MSS && len == 4 {
                    let old = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
                    if old > limit {
                        let odd = (at + 2 - ip) % 2 == 1;
                        packet[at + 2..at + 4].copy_from_slice(&limit.to_be_bytes());
                        update_checksum(&mut packet[ip + 16..ip + 18], old, limit, odd);
                    }
                    return;
                }
                at += len;
            }
        }
    }
}

/// Changes a checksum for a word that changed (RFC 1624 §3, equation 3); `odd`: the word stands at an odd place.
fn update_checksum(field: &mut [u8], old: u16, new: u16, odd: bool) {
    let place = |word: u16| u32::from(if odd { word.swap_bytes() } else { word });
    let mut sum = u32::from(!u16::from_be_bytes([field[0], field[1]])) + place(!old) + place(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    field.copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::Checksum;
    use proptest::prelude::*;

    /// A SYN with these options before the segment size.
    fn syn(is_v6: bool, before: &[u8], mss: u16) -> Vec<u8> {
        let mut options = before.to_vec();
        options.extend_from_slice(&[MSS, 4]);
        options.extend_from_slice(&mss.to_be_bytes());
        options.resize(options.len().next_multiple_of(4), 0);
        let mut l4 = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, SYN, 0xff, 0xff, 0, 0, 0, 0];
        l4[12] = (((20 + options.len()) / 4) << 4) as u8;
        l4.extend_from_slice(&options);
        let mut p = if is_v6 { vec![0xfd; 40] } else { vec![100; 20] };
        p[0] = if is_v6 { 0x60 } else { 0x45 };
        if is_v6 {
            p[6] = TCP;
        } else {
            p[6..8].fill(0);
            p[9] = TCP;
        }
        let sum = sum_of(&p, &l4).finish();
        l4[16..18].copy_from_slice(&sum);
        p.extend_from_slice(&l4);
        p
    }

    fn sum_of(ip: &[u8], l4: &[u8]) -> Checksum {
        let addresses = if ip[0] == 0x60 { 8..40 } else { 12..20 };
        let mut sum = Checksum::pseudo_header(&ip[addresses], TCP, l4.len());
        sum.add(l4);
        sum
    }

    proptest! {
        #[test]
        fn only_what_is_too_large_changes_and_the_checksum_stays_right(
            is_v6: bool, before in prop_oneof![Just(vec![]), Just(vec![1]), Just(vec![3, 3, 7]), Just(vec![1, 1, 1])],
            mss: u16, mtu in 576usize..1500,
        ) {
            let packet = syn(is_v6, &before, mss);
            let mut clamped = packet.clone();
            clamp(&mut clamped, || mtu);
            let ip = if is_v6 { 40 } else { 20 };
            let limit = (mtu - ip - 20) as u16;
            let at = ip + 20 + before.len() + 2;
            prop_assert_eq!(u16::from_be_bytes([clamped[at], clamped[at + 1]]), mss.min(limit));
            prop_assert!(sum_of(&clamped[..ip], &clamped[ip..]).is_right());
            if mss <= limit { prop_assert_eq!(&clamped, &packet); }
            let mut data = packet.clone();
            data[ip + 13] = 0x10;
            let unchanged = data.clone();
            clamp(&mut data, || mtu);
            prop_assert_eq!(data, unchanged, "no SYN, no change");
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, mtu in 0usize..2000) {
            clamp(&mut bytes, || mtu);
            if bytes.len() > 33 {
                bytes[0] = 0x45;
                bytes[6..8].fill(0);
                bytes[9] = TCP;
                bytes[33] |= SYN;
                clamp(&mut bytes, || mtu);
            }
        }
    }
}
