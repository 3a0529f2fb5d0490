//! Putting the packets of a flow together again, so that the kernel takes many in one write: the inverse of
//! [`super::vnet::Split`]. Packets stay where they are; a group is a list of places in one buffer.
//!
//! Packets join a group only if splitting it gives the very same packets: the next sequence number, the same headers
//! but for what counts up, right checksums. What doesn't fit sends the group of its flow ahead, so that no packet
//! overtakes another one of its flow.

use std::ops::Range;

use super::{
    checksum::Checksum,
    vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, TCP, UDP, VnetHeader},
};

/// Groups open at the same time; with more flows the oldest group goes ahead.
const GROUPS: usize = 16;
/// Packets of one group.
const MAX_PACKETS: usize = 128;
/// Bytes of one group, headers included.
const MAX_BYTES: usize = 65_535;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Packets to be written at once: `pieces[0]` with its headers, payload alone of the others.
#[derive(Debug, Default)]
pub struct Group {
    pub pieces: Vec<Range<usize>>,
    head: Head,
    /// Bytes of the whole.
    total: usize,
    next_seq: u32,
    /// Nothing may follow: the last packet was short, or pushes.
    closed: bool,
    pushes: bool,
}

/// Where the parts of a packet are, and what tells its flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Head {
    is_v6: bool,
    is_tcp: bool,
    ip: usize,
    headers: usize,
    payload: usize,
}

/// How a packet may be treated.
enum Kind {
    /// It may join others, or others may join it.
    Joins(Head),
    /// It is of a flow but stands alone.
    Alone(Head),
    /// No flow can be told: everything before it goes first.
    Opaque,
}

/// Groups packets of a batch.
#[derive(Debug)]
pub struct Coalescer {
    open: Vec<Group>,
    spare: Vec<Group>,
    udp: bool,
}

impl Coalescer {
    /// `udp`: whether UDP datagrams may be put together too.
    #[must_use]
    pub fn new(udp: bool) -> Self {
        Self { open: Vec::new(), spare: Vec::new(), udp }
    }

    /// Takes in the packet at `at`, whose bytes stay in `buffer` until [`Self::flush`]. `emit` gets what is ready.
    pub fn push(&mut self, buffer: &mut [u8], at: Range<usize>, emit: &mut impl FnMut(&[u8], &VnetHeader, &Group)) {
        let packet = &buffer[at.clone()];
        match classify(packet, self.udp) {
            Kind::Joins(head) => {
                let same =
                    self.open.iter().position(|g| is_same_flow(&g.head, &buffer[g.pieces[0].clone()], &head, packet));
                if let Some(i) = same {
                    if self.open[i].takes(&buffer[self.open[i].pieces[0].clone()], &head, packet) {
                        self.open[i].add(&head, packet, at);
                        return;
                    }
                    self.emit(i, buffer, emit);
                }
                if self.open.len() >= GROUPS {
                    self.emit(0, buffer, emit);
                }
                let mut group = self.spare.pop().unwrap_or_default();
                group.begin(&head, &buffer[at.clone()], at);
                self.open.push(group);
            }
            Kind::Alone(head) => {
                let same =
                    self.open.iter().position(|g| is_same_flow(&g.head, &buffer[g.pieces[0].clone()], &head, packet));
                if let Some(i) = same {
                    self.emit(i, buffer, emit);
                }
                self.emit_alone(buffer, at, emit);
            }
            Kind::Opaque => {
                self.flush(buffer, emit);
                self.emit_alone(buffer, at, emit);
            }
        }
    }

    /// Everything that is held goes out, the oldest first.
    pub fn flush(&mut self, buffer: &mut [u8], emit: &mut impl FnMut(&[u8], &VnetHeader, &Group)) {
        while !self.open.is_empty() {
            self.emit(0, buffer, emit);
        }
    }

    fn emit(&mut self, i: usize, buffer: &mut [u8], emit: &mut impl FnMut(&[u8], &VnetHeader, &Group)) {
        let group = self.open.remove(i);
        let header = group.finish(buffer);
        emit(buffer, &header, &group);
        self.spare.push(group);
    }

    fn emit_alone(&mut self, buffer: &[u8], at: Range<usize>, emit: &mut impl FnMut(&[u8], &VnetHeader, &Group)) {
        let mut group = self.spare.pop().unwrap_or_default();
        group.pieces.clear();
        group.pieces.push(at);
        emit(buffer, &VnetHeader::default(), &group);
        self.spare.push(group);
    }
}

impl Group {
    fn begin(&mut self, head: &Head, packet: &[u8], at: Range<usize>) {
        self.pieces.clear();
        self.pieces.push(at);
        self.head = *head;
        self.total = packet.len();
        self.pushes = head.is_tcp && packet[head.ip + 13] & PSH != 0;
        self.closed = self.pushes;
        self.next_seq = if head.is_tcp { u32_at(packet, head.ip + 4).wrapping_add(head.payload as u32) } else { 0 };
    }

    /// Whether splitting the group with this packet at its end would give it back as it is.
    fn takes(&self, first: &[u8], head: &Head, packet: &[u8]) -> bool {
        let (ip, headers) = (head.ip, head.headers);
        if self.closed
            || self.pieces.len() >= MAX_PACKETS
            || headers != self.head.headers
            || head.payload > self.head.payload
            || self.total + head.payload > MAX_BYTES
        {
            return false;
        }
        let same_ip = if head.is_v6 {
            // Version, class, flow label; hop limit.
            first[..4] == packet[..4] && first[7] == packet[7]
        } else {
            let id = |p: &[u8]| u16::from_be_bytes([p[4], p[5]]);
            let counts_up = id(first).wrapping_add(self.pieces.len() as u16) == id(packet);
            let dont_fragment = packet[6] & 0x40 != 0;
            first[1] == packet[1] && first[6..9] == packet[6..9] && (counts_up || dont_fragment)
        };
        if !head.is_tcp {
            return same_ip;
        }
        // Acknowledgement; flags but PSH; window; options.
        same_ip
            && u32_at(packet, ip + 4) == self.next_seq
            && first[ip + 8..ip + 13] == packet[ip + 8..ip + 13]
            && (first[ip + 13] | PSH) == (packet[ip + 13] | PSH)
            && first[ip + 14..ip + 16] == packet[ip + 14..ip + 16]
            && first[ip + 18..headers] == packet[ip + 18..headers]
    }

    fn add(&mut self, head: &Head, packet: &[u8], at: Range<usize>) {
        self.pieces.push(at.start + head.headers..at.end);
        self.total += head.payload;
        self.next_seq = self.next_seq.wrapping_add(head.payload as u32);
        self.pushes = head.is_tcp && packet[head.ip + 13] & PSH != 0;
        // PSH belongs on the last segment, and a short segment is the last one.
        self.closed = self.pushes || head.payload < self.head.payload;
    }

    /// Makes the first packet's headers those of the whole.
    fn finish(&self, buffer: &mut [u8]) -> VnetHeader {
        if self.pieces.len() == 1 {
            return VnetHeader::default();
        }
        let Head { is_v6, is_tcp, ip, headers, payload } = self.head;
        let packet = &mut buffer[self.pieces[0].clone()];
        let addresses = if is_v6 {
            packet[4..6].copy_from_slice(&((self.total - 40) as u16).to_be_bytes());
            8..40
        } else {
            packet[2..4].copy_from_slice(&(self.total as u16).to_be_bytes());
            packet[10..12].fill(0);
            let mut sum = Checksum::default();
            sum.add(&packet[..ip]);
            packet[10..12].copy_from_slice(&sum.finish());
            12..20
        };
        let l4_len = self.total - ip;
        let protocol = if is_tcp { TCP } else { UDP };
        let partial = Checksum::pseudo_header(&packet[addresses], protocol, l4_len).partial();
        let offset = if is_tcp {
            if self.pushes {
                packet[ip + 13] |= PSH;
            }
            16
        } else {
            packet[ip + 4..ip + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            6
        };
        packet[ip + offset..ip + offset + 2].copy_from_slice(&partial);
        VnetHeader {
            needs_checksum: true,
            gso_type: match (is_tcp, is_v6) {
                (true, false) => GSO_TCPV4,
                (true, true) => GSO_TCPV6,
                (false, _) => GSO_UDP_L4,
            },
            header_len: headers as u16,
            gso_size: payload as u16,
            csum_start: ip as u16,
            csum_offset: offset as u16,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn classify(packet: &[u8], udp: bool) -> Kind {
    let Some(head) = read_head(packet) else { return Kind::Opaque };
    let joins = head.payload > 0
        && (udp || head.is_tcp)
        && (!head.is_tcp || packet[head.ip + 13] & !PSH == ACK)
        && (head.is_v6 || packet[0] == 0x45)
        && has_right_checksum(&head, packet);
    if joins { Kind::Joins(head) } else { Kind::Alone(head) }
}

/// The parts of a whole TCP or UDP packet; `None` for fragments, extension headers and everything else.
fn read_head(packet: &[u8]) -> Option<Head> {
    let is_v6 = packet.first()? >> 4 == 6;
    let (ip, protocol, total) = if is_v6 {
        if packet.len() < 40 {
            return None;
        }
        (40, packet[6], 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])))
    } else {
        let ip = usize::from(packet[0] & 0x0f) * 4;
        let is_fragment = packet.len() < 20 || packet[6] & 0x3f != 0 || packet[7] != 0;
        if packet[0] >> 4 != 4 || ip < 20 || is_fragment {
            return None;
        }
        (ip, packet[9], usize::from(u16::from_be_bytes([packet[2], packet[3]])))
    };
    let is_tcp = protocol == TCP;
    let l4 = match protocol {
        TCP => usize::from(packet.get(ip + 12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let headers = ip + l4;
    let sound = total == packet.len() && headers <= total && (!is_tcp || l4 >= 20);
    let sound = sound && (is_tcp || usize::from(u16::from_be_bytes([packet[ip + 4], packet[ip + 5]])) == total - ip);
    sound.then(|| Head { is_v6, is_tcp, ip, headers, payload: total - headers })
}

/// The kernel won't look at the checksums of a group, so a wrong one must not get in.
fn has_right_checksum(head: &Head, packet: &[u8]) -> bool {
    let addresses = if head.is_v6 { 8..40 } else { 12..20 };
    if !head.is_tcp && packet[head.ip + 6..head.ip + 8] == [0, 0] {
        return false;
    }
    if !head.is_v6 {
        let mut sum = Checksum::default();
        sum.add(&packet[..head.ip]);
        if !sum.is_right() {
            return false;
        }
    }
    let l4 = &packet[head.ip..];
    let protocol = if head.is_tcp { TCP } else { UDP };
    let mut sum = Checksum::pseudo_header(&packet[addresses], protocol, l4.len());
    sum.add(l4);
    sum.is_right()
}

fn is_same_flow(a_head: &Head, a: &[u8], b_head: &Head, b: &[u8]) -> bool {
    let addresses = if a_head.is_v6 { 8..40 } else { 12..20 };
    a_head.is_v6 == b_head.is_v6
        && a_head.is_tcp == b_head.is_tcp
        && a[a_head.ip..a_head.ip + 4] == b[b_head.ip..b_head.ip + 4]
        && a[addresses.clone()] == b[addresses]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vnet::Split;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct Spec {
        is_v6: bool,
        is_tcp: bool,
        port: u16,
        sizes: Vec<usize>,
        seq: u32,
        push_last: bool,
        options: bool,
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let sizes = prop_oneof![
            (1usize..1300, 1usize..60, 0usize..1300).prop_map(|(size, n, last)| {
                let mut sizes = vec![size; n];
                sizes.extend((last > 0).then_some(last.min(size)));
                sizes
            }),
            prop::collection::vec(0usize..1300, 1..10),
        ];
        (any::<(bool, bool, bool, bool)>(), 0u16..3, sizes, any::<u32>()).prop_map(
            |((is_v6, is_tcp, push_last, options), port, sizes, seq)| Spec {
                is_v6,
                is_tcp,
                port,
                sizes,
                seq,
                push_last,
                options,
            },
        )
    }

    /// A packet with right lengths and checksums.
    fn packet(s: &Spec, id: u16, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut l4 = vec![];
        l4.extend_from_slice(&(1000 + s.port).to_be_bytes());
        l4.extend_from_slice(&80u16.to_be_bytes());
        if s.is_tcp {
            l4.extend_from_slice(&seq.to_be_bytes());
            l4.extend_from_slice(&[0, 0, 0, 9, if s.options { 0x80 } else { 0x50 }, flags, 1, 0, 0, 0, 0, 0]);
            l4.extend_from_slice(if s.options { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] });
        } else {
            l4.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
            l4.extend_from_slice(&[0, 0]);
        }
        l4.extend_from_slice(payload);
        let protocol = if s.is_tcp { TCP } else { UDP };
        let mut p = if s.is_v6 {
            let mut p = vec![0x60, 0, 0, 0];
            p.extend_from_slice(&(l4.len() as u16).to_be_bytes());
            p.extend_from_slice(&[protocol, 64]);
            p.extend_from_slice(&[0xfd; 16]);
            p.extend_from_slice(&[0xfe; 16]);
            p
        } else {
            let mut p = vec![0x45, 2];
            p.extend_from_slice(&((20 + l4.len()) as u16).to_be_bytes());
            p.extend_from_slice(&id.to_be_bytes());
            p.extend_from_slice(&[0, 0, 64, protocol, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2]);
            let mut sum = Checksum::default();
            sum.add(&p);
            p[10..12].copy_from_slice(&sum.finish());
            p
        };
        let addresses = if s.is_v6 { 8..40 } else { 12..20 };
        let mut sum = Checksum::pseudo_header(&p[addresses], protocol, l4.len());
        sum.add(&l4);
        let at = if s.is_tcp { 16 } else { 6 };
        let sum = sum.finish();
        l4[at..at + 2].copy_from_slice(if !s.is_tcp && sum == [0, 0] { &[0xff, 0xff] } else { &sum });
        p.extend_from_slice(&l4);
        p
    }

    fn packets(s: &Spec) -> Vec<Vec<u8>> {
        let mut seq = s.seq;
        s.sizes
            .iter()
            .enumerate()
            .map(|(i, size)| {
                let payload: Vec<u8> = (0..*size).map(|b| (b + i) as u8).collect();
                let flags = if s.push_last && i + 1 == s.sizes.len() { ACK | PSH } else { ACK };
                let p = packet(s, i as u16, seq, flags, &payload);
                seq = seq.wrapping_add(*size as u32);
                p
            })
            .collect()
    }

    /// Coalesces, then splits as the kernel would; returns the packets and the number of writes.
    fn round_trip(input: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
        let mut buffer: Vec<u8> = input.concat();
        let (mut out, mut writes) = (Vec::new(), 0);
        let mut emit = |buffer: &[u8], header: &VnetHeader, group: &Group| {
            writes += 1;
            let whole: Vec<u8> = group.pieces.iter().flat_map(|at| buffer[at.clone()].to_vec()).collect();
            assert_eq!(VnetHeader::parse(&header.encode()), *header);
            if header.gso_type == 0 {
                out.push(whole);
                return;
            }
            let split = Split::new(header, &whole, 65_535).unwrap();
            assert_eq!(split.count(), group.pieces.len());
            for i in 0..split.count() {
                let mut segment = Vec::new();
                split.write(i, &mut segment);
                out.push(segment);
            }
        };
        let mut coalescer = Coalescer::new(true);
        let mut at = 0;
        for p in input {
            coalescer.push(&mut buffer, at..at + p.len(), &mut emit);
            at += p.len();
        }
        coalescer.flush(&mut buffer, &mut emit);
        (out, writes)
    }

    fn flow(p: &[u8]) -> (u8, u16) {
        let ip = if p[0] >> 4 == 6 { 40 } else { 20 };
        (p[if ip == 40 { 6 } else { 9 }] ^ p[0], u16::from_be_bytes([p[ip], p[ip + 1]]))
    }

    proptest! {
        #[test]
        fn what_is_put_together_comes_apart_as_it_was_and_no_flow_is_reordered(
            specs in prop::collection::vec(spec(), 1..4), seed: [u8; 32],
        ) {
            let mut rng = crate::crypto::Rng::from_seed(seed);
            let mut flows: Vec<std::collections::VecDeque<Vec<u8>>> = specs.iter().map(|s| packets(s).into()).collect();
            let mut input = Vec::new();
            while flows.iter().any(|f| !f.is_empty()) {
                let i = rng.below(flows.len() as u64) as usize;
                input.extend(flows[i].pop_front());
            }
            let (output, _) = round_trip(&input);
            prop_assert_eq!(input.len(), output.len());
            let by_flow = |all: &[Vec<u8>]| {
                let mut sorted = all.to_vec();
                sorted.sort_by_key(|p| flow(p));
                sorted
            };
            prop_assert_eq!(by_flow(&input), by_flow(&output));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, header: [u8; 10], mtu in 0usize..2000, cut in 0usize..100) {
            let header = VnetHeader::parse(&header);
            let _ = crate::wire::vnet::finish_checksum(&header, &mut bytes);
            if let Ok(split) = Split::new(&header, &bytes, mtu) {
                (0..split.count()).for_each(|i| split.write(i, &mut Vec::new()));
            }
            let mut coalescer = Coalescer::new(true);
            let cut = cut.min(bytes.len());
            let len = bytes.len();
            coalescer.push(&mut bytes, 0..cut, &mut |_, _, _| {});
            coalescer.push(&mut bytes, cut..len, &mut |_, _, _| {});
            coalescer.flush(&mut bytes, &mut |_, _, _| {});
        }
    }

    #[test]
    fn bulk_is_one_write_and_wrong_checksums_stay_alone() {
        for (is_v6, is_tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let s = Spec {
                is_v6,
                is_tcp,
                port: 0,
                sizes: vec![1300; 40],
                seq: 0xffff_0000,
                push_last: true,
                options: true,
            };
            let mut input = packets(&s);
            assert_eq!(round_trip(&input), (input.clone(), 1));
            *input[20].last_mut().unwrap() ^= 1;
            let (output, writes) = round_trip(&input);
            assert_eq!((&output, writes), (&input, 3), "the wrong one is passed on as it came, by itself");
        }
    }
}
