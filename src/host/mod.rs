//! Floor 4: the host: interfaces, addresses, routes and rules (rtnetlink), network namespaces, nftables, privileges.
#![allow(unsafe_code)] // netlink and packet sockets, setns, unshare and getifaddrs

mod cable;
mod direct;
pub mod firewall;
mod netlink;
mod netns;
mod nft;
mod policy;
mod system;
mod watch;

pub use cable::{CableEnd, MAX_FRAME, wait_for_frames};
pub use direct::{ANSWERS, MARK, bind_udp, connect, listen, mark};
pub use netlink::{LinkChange, Monitor, Netlink};
pub use netns::{NetNs, become_root_in_user_namespace, can_make_namespaces};
pub use nft::masquerade;
pub use policy::{Route, Rule, Table};
pub use system::{
    InterfaceAddress, cgroup_root, cpu_seconds, drop_privileges, end_by_closed_pipe, ephemeral_ports, has_ipv6,
    interface_addresses, interface_networks, is_root, listening, raise_file_limit, random, resident_kib, sd_notify,
};
pub use watch::{Changed, Watch};
