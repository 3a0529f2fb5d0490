//! Floor 5: the chat's service: keeps platforms, and brings their messages from node to node, over mesh IPs and relays.

pub mod bench;
mod comparing;
mod deeds;
mod engine;
mod files;
mod frames;
mod front;
mod gate;
mod hub;
mod irc;
mod keys;
mod linking;
mod links;
mod net;
mod outbox;
mod page;
mod payload;
mod pieces;
mod platform;
mod private;
mod relay;
pub mod request;
mod rooms;
mod service;
mod signals;
mod store;
mod sync;
pub use payload::PIECE;
pub use relay::Limits;
pub use request::{Answer, Request};
pub use service::{Handle, Listen, Options, Service, ServiceError};
pub use sync::{Comparison, Found, Scope};

#[cfg(test)]
mod tests;
