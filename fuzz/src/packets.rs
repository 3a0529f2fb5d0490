//! Headers of datagrams and IP packets.
#![no_main]

use aegisray::wire::{ip, packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = packet::parse(data);
    let Some((mtu, packet)) = data.split_first_chunk::<2>() else { return };
    let mtu = usize::from(u16::from_be_bytes(*mtu));
    let _ = ip::addresses(packet);
    let _ = ip::unreachable(packet);
    if let ip::TooBig::Fragments(pieces) = ip::too_big(packet, mtu) {
        assert!(pieces.iter().all(|p| p.len() <= mtu));
    }
});
