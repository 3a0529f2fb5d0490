//! Floor 4: transports. UDP in batches, with segmentation offload where the kernel has it.
#![allow(unsafe_code)] // recvmmsg, sendmmsg and their control messages

mod cmsg;
mod receive;
mod send;
mod single;
mod sockets;
mod sources;
mod stream;
mod stun;
mod udp;

pub use receive::{Datagram, Datagrams};
pub use send::{SendList, SendQueue};
pub use single::{Received, receive_single, tell_ways};
pub use sockets::Sockets;
pub use sources::{Heard, Sources};
pub use stream::{Seal, Stream, StreamReader};
pub use stun::StunServer;
pub use udp::{Offloads, UdpTransport};

/// How often a thread that found nothing lets others have the processor before it goes to sleep: what comes meanwhile
/// needs no wake-up, and a processor with nothing to do can take over a thread that is ready, but none that sleeps.
pub const YIELDS: usize = 3;
