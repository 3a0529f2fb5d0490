//! The chat: messages, frames between nodes.
#![no_main]

use aegisray::chat::{Message, wire};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    if kind % 2 == 0 {
        if let Ok(message) = Message::decode(body) {
            assert_eq!(message.encode(), body, "one meaning has one form");
        }
    } else {
        drop(wire::Frame::decode(body));
    }
});
