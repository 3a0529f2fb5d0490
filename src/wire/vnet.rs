//! The header that a TUN device with offloads puts before each packet (`struct virtio_net_hdr`, Virtual I/O Device 1.2
//! §5.1.6), and splitting what the kernel left whole: TCP and UDP super-packets, checksums not yet computed.

use super::{Malformed, checksum::Checksum};

/// Bytes of the header.
pub const VNET_HEADER: usize = 10;

pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
const NEEDS_CSUM: u8 = 1;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The header, in this machine's byte order as the device hands it over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// From `csum_start` on the checksum is still to be computed, and stored `csum_offset` behind.
    pub needs_checksum: bool,
    pub gso_type: u8,
    pub header_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHeader {
    #[must_use]
    pub fn parse(bytes: &[u8; VNET_HEADER]) -> Self {
        let u16_at = |i: usize| u16::from_ne_bytes([bytes[i], bytes[i + 1]]);
        Self {
            needs_checksum: bytes[0] & NEEDS_CSUM != 0,
            gso_type: bytes[1] & !GSO_ECN,
            header_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
        }
    }

    #[must_use]
    pub fn encode(&self) -> [u8; VNET_HEADER] {
        let mut out = [0; VNET_HEADER];
        out[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        out[1] = self.gso_type;
        for (i, value) in [self.header_len, self.gso_size, self.csum_start, self.csum_offset].into_iter().enumerate() {
            out[2 + 2 * i..4 + 2 * i].copy_from_slice(&value.to_ne_bytes());
        }
        out
    }
}

/// Computes the checksum that the kernel left to the device.
pub fn finish_checksum(header: &VnetHeader, packet: &mut [u8]) -> Result<(), Malformed> {
    if !header.needs_checksum {
        return Ok(());
    }
    let (start, at) =
        (usize::from(header.csum_start), usize::from(header.csum_start) + usize::from(header.csum_offset));
    if start >= packet.len() || at + 2 > packet.len() {
        return Err(Malformed("partial checksum"));
    }
    // The field holds the pseudo-header's sum already.
    let mut sum = Checksum::default();
    sum.add(&packet[start..]);
    let sum = sum.finish();
    // Zero means "none" in UDP (RFC 768); its complement is the same number.
    packet[at..at + 2].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    Ok(())
}

/// A super-packet and how to cut it.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    /// Bytes of the IP header.
    ip: usize,
    /// Bytes of both headers.
    headers: usize,
    /// Payload bytes per segment.
    step: usize,
    is_v6: bool,
    is_tcp: bool,
}

impl<'a> Split<'a> {
    /// Reads the headers of a super-packet. TCP segments will be no longer than `mtu` bytes, whatever the kernel asked
    /// for; UDP datagrams keep their size.
    pub fn new(header: &VnetHeader, packet: &'a [u8], mtu: usize) -> Result<Self, Malformed> {
        let bad = Malformed("super-packet");
        let is_tcp = matches!(header.gso_type, GSO_TCPV4 | GSO_TCPV6);
        let is_v6 = packet.first().ok_or(bad)? >> 4 == 6;
        let ip = usize::from(header.csum_start);
        let least = if is_v6 { 40 } else { 20 };
        let known = is_tcp || header.gso_type == GSO_UDP_L4;
        let l4 = if is_tcp { usize::from(packet.get(ip + 12).ok_or(bad)? >> 4) * 4 } else { 8 };
        let headers = ip + l4;
        let consistent = known && ip >= least && (!is_tcp || l4 >= 20) && packet.len() > headers;
        if !consistent || header.gso_size == 0 || packet.len() > 65_535 + 40 {
            return Err(bad);
        }
        let mut step = usize::from(header.gso_size);
        if is_tcp && headers + step > mtu {
            step = mtu.checked_sub(headers).filter(|s| *s > 0).ok_or(bad)?;
        }
        Ok(Self { packet, ip, headers, step, is_v6, is_tcp })
    }

    /// The number of segments.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.packet.len() - self.headers).div_ceil(self.step)
    }

    /// The length of the longest segment.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.headers + self.step.min(self.packet.len() - self.headers)
    }

    /// The super-packet.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.packet
    }

    /// The ECN field of all segments.
    #[must_use]
    pub fn ecn(&self) -> u8 {
        super::ip::ecn(self.packet)
    }

    /// Appends segment `i` with all its lengths, numbers and checksums (RFC 9293 §3.1; RFC 768; RFC 791 §3.1).
    pub fn write(&self, i: usize, out: &mut Vec<u8>) {
        let begin = self.headers + i * self.step;
        let end = self.packet.len().min(begin + self.step);
        let payload = &self.packet[begin..end];
        let start = out.len();
        out.extend_from_slice(&self.packet[..self.headers]);
        out.extend_from_slice(payload);
        let segment = &mut out[start..];
        let len = segment.len();
        let (ip, l4) = segment.split_at_mut(self.ip);
        let addresses = if self.is_v6 {
            ip[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            8..40
        } else {
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(i as u16);
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].fill(0);
            let mut sum = Checksum::default();
            sum.add(ip);
            ip[10..12].copy_from_slice(&sum.finish());
            12..20
        };
        let field = if self.is_tcp {
            let seq = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]).wrapping_add((i * self.step) as u32);
            l4[4..8].copy_from_slice(&seq.to_be_bytes());
            if end < self.packet.len() {
                l4[13] &= !(FIN | PSH);
            }
            if i > 0 {
                l4[13] &= !CWR;
            }
            16
        } else {
            let len = l4.len() as u16;
            l4[4..6].copy_from_slice(&len.to_be_bytes());
            6
        };
        l4[field..field + 2].fill(0);
        let protocol = if self.is_tcp { TCP } else { UDP };
        let mut sum = Checksum::pseudo_header(&ip[addresses], protocol, l4.len());
        sum.add(l4);
        let sum = sum.finish();
        l4[field..field + 2].copy_from_slice(if !self.is_tcp && sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    }
}
