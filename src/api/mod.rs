//! Floor 6: the management interface: one JSON object per line, each way, over a local Unix socket that only root (or
//! the daemon's user) may open.

mod client;
mod server;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use client::{ClientError, request, request_any};
pub use server::{Call, serve};

use crate::{
    access::Protocol,
    chatd,
    node::{ExitOffer, PeerStatus, RouteStatus, Status},
    portal::ClientStatus,
};

/// What the CLI asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    Status,
    Peers,
    Routes,
    /// One echo to a node, end to end.
    Ping {
        node: String,
        size: usize,
    },
    /// One question on a path: what is `at`'s next hop towards `target`? `at` empty: this node's.
    TraceStep {
        at: String,
        target: String,
    },
    /// A token for a new node. `valid_s`: for how long; `name`, `groups`: what its certificate will say.
    Invite {
        valid_s: u64,
        name: String,
        #[serde(default)]
        groups: Vec<String>,
        bootstrap: Vec<String>,
    },
    /// A revocation list that the authority signed, in hexadecimal.
    Revoke {
        list: String,
    },
    /// What goes through which exit; `choice`: another one from now on, as the configuration says it.
    Exit {
        choice: Option<String>,
    },
    /// What becomes of a connection.
    AccessTest {
        source: String,
        target: String,
        protocol: Protocol,
    },
    /// The access rules in force.
    AccessList,
    /// Let in a WireGuard client.
    PortalAdd {
        name: String,
    },
    /// Shut one out.
    PortalRemove {
        name: String,
    },
    PortalList,
    /// What the chat is asked.
    Chat {
        ask: Box<chatd::Request>,
    },
    /// Read the configuration again.
    Reload,
    /// End the daemon.
    Stop,
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Response {
    Status(Box<DaemonStatus>),
    Peers {
        peers: Vec<PeerStatus>,
    },
    Routes {
        routes: Vec<RouteStatus>,
    },
    Pong {
        node: String,
        name: String,
        rtt_us: u64,
    },
    Step {
        at: String,
        next: Option<String>,
        next_name: String,
        arrived: bool,
        metric: u32,
        link_rtt_us: u64,
    },
    Token {
        token: String,
        one_time: bool,
    },
    Exit(Box<ExitStatus>),
    Access(AccessAnswer),
    AccessList {
        lines: Vec<String>,
    },
    /// A client's configuration (wg-quick(8)), and what it may do.
    PortalClient {
        config: String,
        note: String,
    },
    PortalClients {
        clients: Vec<ClientStatus>,
    },
    Chat {
        answer: Box<chatd::Answer>,
    },
    /// Keys that have changed: in force now, and only after a restart.
    Reloaded {
        applied: Vec<String>,
        restart: Vec<String>,
    },
    Done,
    Error {
        message: String,
    },
}

/// The node's status and the process'.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonStatus {
    #[serde(flatten)]
    pub node: Status,
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    pub interface: String,
    pub mtu: u16,
    pub listen: std::net::SocketAddr,
    pub rss_kib: u64,
    /// Which offloads are in use: super-packets at the TUN device, runs of datagrams at the socket.
    pub offloads: std::collections::BTreeMap<String, bool>,
    /// Queues of the TUN device and sockets, each with its thread.
    pub queues: (usize, usize),
    pub traffic: std::collections::BTreeMap<String, u64>,
    /// The disguise: its mode, and whose ClientHello sites see.
    pub stealth: (String, String),
    /// What others took away of the daemon's firewall, routes and settings on this host, and how often it was put back.
    pub restored: std::collections::BTreeMap<String, u64>,
    /// What of that is not in force, and why.
    pub missing: std::collections::BTreeMap<String, String>,
}

/// What becomes of a connection, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessAnswer {
    pub allowed: bool,
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: String,
    pub reason: String,
    /// Who else decides, or empty.
    pub note: String,
}

/// The exit that a node goes through, and those that it could.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExitStatus {
    /// What was chosen, as the configuration says it.
    pub choice: String,
    pub kill_switch: bool,
    /// What of the kill switch is not in force, and why; or empty.
    pub open: String,
    /// The exit in use, and for how long.
    pub name: Option<String>,
    pub node_id: Option<String>,
    pub since_s: u64,
    pub offers: Vec<ExitOffer>,
}

/// The longest line either side takes, in bytes.
pub const MAX_LINE: u64 = 4 << 20;
