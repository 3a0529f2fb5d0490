//! Floor 4: the host: interfaces, addresses, routes (rtnetlink), network namespaces, NAT (nftables), privileges.
#![allow(unsafe_code)] // netlink and packet sockets, setns, unshare and getifaddrs

mod cable;
mod netlink;
mod netns;
mod nft;
mod system;

pub use cable::{CableEnd, MAX_FRAME, wait_for_frames};
pub use netlink::{LinkChange, Monitor, Netlink};
pub use netns::{NetNs, become_root_in_user_namespace, can_make_namespaces};
pub use nft::masquerade;
pub use system::{
    cpu_seconds, drop_privileges, interface_addresses, is_root, raise_file_limit, random, resident_kib, sd_notify,
};
