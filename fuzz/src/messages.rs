//! Control messages, records, certificates, tokens.
#![no_main]

use aegisray::{
    identity::{Certificate, Invite, Network, RecordSource, Revocations, authenticate},
    wire::{self, frame, proto},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 8 {
        0 => drop(frame::parse(body)),
        1 => drop(wire::decode::<proto::ControlMessage>(body, "control message")),
        2 => drop(wire::decode::<proto::HandshakePayload>(body, "handshake payload")),
        3 => drop(Certificate::open(body, b"authority")),
        4 => drop(Revocations::open(body, b"authority")),
        5 => drop(Invite::from_token(&String::from_utf8_lossy(body), 0)),
        6 => drop((wire::decode_prefix(body), wire::decode_endpoint(body))),
        _ => {
            let network = Network::new("n", None, None, "100.64.0.0/16".parse().expect("a prefix"));
            let half = body.len() / 2;
            drop(authenticate(&network, &body[..half], RecordSource::Bytes(&body[half..])));
        }
    }
});
