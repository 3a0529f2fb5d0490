//! Headers of datagrams and IP packets, and putting packets together: what a group's pieces come apart to is what was
//! put in.
#![no_main]

use aegisray::{
    portmap::{pcp, upnp},
    stealth::hello::FirstFlight,
    wire::{
        coalesce::{Coalescer, Group},
        ip, mss, packet, stun, turn,
        vnet::{self, Split, VNET_HEADER, VnetHeader},
    },
};
use libfuzzer_sys::fuzz_target;

/// Splits `data` into packets by their length fields, as far as that goes.
fn packets(data: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), data);
    while rest.len() >= 20 && out.len() < 64 {
        let len = match rest[0] >> 4 {
            6 => 40 + usize::from(u16::from_be_bytes([rest[4], rest[5]])),
            _ => usize::from(u16::from_be_bytes([rest[2], rest[3]])),
        };
        let (packet, after) = rest.split_at(len.clamp(1, rest.len()));
        out.push(packet.to_vec());
        rest = after;
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let _ = packet::parse(data);
    if let Ok(binding) = stun::Binding::parse(data) {
        let _ = stun::Binding::parse(&binding.encode()).expect("what is read can be written");
    }
    let _ = turn::parse(data);
    if let FirstFlight::Hello(_) = FirstFlight::read(data) {
        assert_eq!(FirstFlight::read(&data[..data.len() - 1]), FirstFlight::Incomplete);
    }
    let request = pcp::Request { client: [10, 0, 0, 1].into(), port: 1, outside: 1, lifetime_s: 1, nonce: [0; 12] };
    let _ = (pcp::pcp_answer(&request, data), pcp::natpmp_answer(&request, data), pcp::natpmp_address(data));
    let _ = upnp::control_url(&String::from_utf8_lossy(data));
    if let Some((header, packet)) = data.split_first_chunk::<VNET_HEADER>() {
        let header = VnetHeader::parse(header);
        let _ = vnet::finish_checksum(&header, &mut packet.to_vec());
        if let Ok(split) = Split::new(&header, packet, 1420) {
            let mut out = Vec::new();
            (0..split.count().min(64)).for_each(|i| split.write(i, &mut out));
        }
    }
    let input = packets(data);
    let mut buffer = input.concat();
    let mut output = Vec::new();
    let mut emit = |buffer: &[u8], header: &VnetHeader, group: &Group| {
        let whole: Vec<u8> = group.pieces.iter().flat_map(|at| buffer[at.clone()].to_vec()).collect();
        if header.gso_type == vnet::GSO_NONE {
            output.push(whole);
            return;
        }
        let split = Split::new(header, &whole, usize::MAX).expect("a group splits");
        for i in 0..split.count() {
            let mut segment = Vec::new();
            split.write(i, &mut segment);
            output.push(segment);
        }
    };
    let mut coalescer = Coalescer::new(true);
    let mut at = 0;
    for packet in &input {
        coalescer.push(&mut buffer, at..at + packet.len(), &mut emit);
        at += packet.len();
    }
    coalescer.flush(&mut buffer, &mut emit);
    let (mut input, mut output) = (input, output);
    input.sort();
    output.sort();
    assert_eq!(input, output);
    let Some((mtu, packet)) = data.split_first_chunk::<2>() else { return };
    let mtu = usize::from(u16::from_be_bytes(*mtu));
    let _ = ip::addresses(packet);
    let _ = ip::unreachable(packet);
    mss::clamp(&mut packet.to_vec(), || mtu);
    if ip::addresses(packet).is_some() {
        let _ = ip::leave_tunnel(&mut packet.to_vec(), data[0] & 3);
    }
    if let ip::TooBig::Fragments(pieces) = ip::too_big(packet, mtu) {
        assert!(pieces.iter().all(|p| p.len() <= mtu));
    }
});
