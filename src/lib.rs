//! AegisRay: a userspace mesh VPN for Linux. The floors of the house, lowest first; a module imports only from
//! floors beneath its own (`tests/floors.rs` checks it).
#![deny(unsafe_code)]

pub mod access;
pub mod api;
pub mod chat;
pub mod chatd;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod daemon;
pub mod dataplane;
pub mod discovery;
pub mod host;
pub mod identity;
pub mod lab;
pub mod netcheck;
pub mod node;
pub mod portal;
pub mod portmap;
pub mod punch;
pub mod routing;
pub mod session;
pub mod sim;
pub mod stealth;
pub mod transport;
pub mod tun;
pub mod types;
pub mod wire;
