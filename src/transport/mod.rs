//! Floor 4: transports. UDP in batches.
#![allow(unsafe_code)] // recvmmsg, sendmmsg and their control messages

mod udp;

pub use udp::{Datagrams, SendQueue, UdpTransport};
