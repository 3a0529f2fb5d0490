//! Answers to the management interface.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::{sync::oneshot, time};

use super::{control::Control, keeper::Report, unix_now};
use crate::{
    api::{Call, DaemonStatus, ExitStatus, Request, Response},
    host,
    identity::{Invite, InviteKey, Refusal},
    node::{Invitation, Node, NotFound, forward},
    stealth::Client,
    types::{ExitChoice, NodeId, UnixTime, check_label},
};

/// How long a node may take to answer an echo.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// A certificate puts a node in at most so many.
const MAX_GROUPS: usize = 16;

struct Waiting {
    answer: oneshot::Sender<Response>,
    sent: time::Instant,
    asked: NodeId,
    target: Option<NodeId>,
}

/// Questions to other nodes whose answers are awaited.
#[derive(Default)]
pub(super) struct Pending {
    waiting: HashMap<u64, Waiting>,
    next: u64,
}

impl Pending {
    fn add(&mut self, answer: oneshot::Sender<Response>, asked: NodeId, target: Option<NodeId>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, Waiting { answer, sent: time::Instant::now(), asked, target });
        self.next
    }

    /// The earlier of `wake` and the first answer's deadline.
    pub fn next_timeout(&self, wake: time::Instant) -> time::Instant {
        self.waiting.values().map(|w| w.sent + ANSWER_TIME).min().map_or(wake, |t| t.min(wake))
    }

    pub fn expire(&mut self) {
        let late: Vec<u64> =
            self.waiting.iter().filter(|(_, w)| w.sent.elapsed() >= ANSWER_TIME).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(w) = self.waiting.remove(&id) {
                let message = format!("no answer within {} s", ANSWER_TIME.as_secs());
                let _ = w.answer.send(Response::Error { message });
            }
        }
    }

    pub fn pong(&mut self, id: u64, from: &NodeId, name: String) {
        // Only who was asked can answer.
        if self.waiting.get(&id).is_none_or(|w| w.asked != *from) {
            return;
        }
        if let Some(w) = self.waiting.remove(&id) {
            let rtt_us = u64::try_from(w.sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            let _ = w.answer.send(Response::Pong { node: from.to_string(), name, rtt_us });
        }
    }

    pub fn step(
        &mut self,
        id: u64,
        from: &NodeId,
        next: Option<NodeId>,
        next_name: String,
        metric: u32,
        link_rtt: Duration,
    ) {
        if self.waiting.get(&id).is_none_or(|w| w.asked != *from) {
            return;
        }
        if let Some(w) = self.waiting.remove(&id) {
            let step = Response::Step {
                at: from.to_string(),
                next: next.map(|n| n.to_string()),
                next_name,
                arrived: next.is_some() && next == w.target,
                metric,
                link_rtt_us: u64::try_from(link_rtt.as_micros()).unwrap_or(u64::MAX),
            };
            let _ = w.answer.send(step);
        }
    }
}

impl Control {
    pub fn handle_call(&mut self, (request, answer): Call) {
        let now = self.clock.now();
        let response = match request {
            Request::Status => Response::Status(Box::new(self.daemon_status())),
            Request::Peers => Response::Peers { peers: self.node.peer_statuses(now) },
            Request::Routes => Response::Routes { routes: self.node.route_statuses() },
            Request::Ping { node, size } => match self.find(&node) {
                Ok(id) => {
                    let ping = self.pending.add(answer, id, None);
                    self.node.ping(now, id, ping, size);
                    return;
                }
                Err(message) => Response::Error { message },
            },
            Request::TraceStep { at, target } => {
                let me = self.node.id();
                let at = if at.is_empty() { Ok(me) } else { self.find(&at) };
                match (at, self.find(&target)) {
                    (Ok(at), Ok(target)) => {
                        let step = self.pending.add(answer, at, Some(target));
                        self.node.trace(now, at, step, target);
                        return;
                    }
                    (Err(message), _) | (_, Err(message)) => Response::Error { message },
                }
            }
            Request::Chat { ask } => {
                self.ask_chat(*ask, answer);
                return;
            }
            Request::Invite { valid_s, name, groups, bootstrap } => self.invite(valid_s, name, groups, bootstrap),
            Request::Revoke { list } => {
                let bytes = data_encoding::HEXLOWER.decode(list.as_bytes()).unwrap_or_default();
                if self.node.set_revocations(now, &bytes) {
                    Response::Done
                } else {
                    let message = "not a newer revocation list signed by this network's authority".to_owned();
                    Response::Error { message }
                }
            }
            Request::Exit { choice: None } => Response::Exit(Box::new(self.exit_status())),
            Request::Exit { choice: Some(choice) } => match choice.parse().and_then(|c| self.change_exit(c)) {
                Ok(()) => Response::Exit(Box::new(self.exit_status())),
                Err(message) => Response::Error { message },
            },
            Request::AccessTest { source, target, protocol } => match self.test_access(&source, &target, protocol) {
                Ok(answer) => Response::Access(answer),
                Err(message) => Response::Error { message },
            },
            Request::PortalAdd { name } => match self.add_client(&name) {
                Ok((config, note)) => Response::PortalClient { config, note },
                Err(message) => Response::Error { message },
            },
            Request::PortalRemove { name } => match self.remove_client(&name) {
                Ok(()) => Response::Done,
                Err(message) => Response::Error { message },
            },
            Request::PortalList => match self.portal() {
                Ok((_, portal)) => Response::PortalClients { clients: portal.list() },
                Err(message) => Response::Error { message },
            },
            Request::AccessList => Response::AccessList { lines: self.list_access() },
            Request::Reload => match self.reload() {
                Ok(r) => Response::Reloaded { applied: r.applied, restart: r.restart },
                Err(message) => Response::Error { message },
            },
            Request::Stop => {
                (self.stopping, self.opens) = (true, true);
                Response::Done
            }
        };
        let _ = answer.send(response);
    }

    /// A node by name, NodeId, beginning of a NodeId (6 characters or more) or mesh address.
    pub fn find(&self, who: &str) -> Result<NodeId, String> {
        if let Ok(ip) = who.parse() {
            return self.node.owner_of(ip).ok_or_else(|| format!("no node has the address {who}"));
        }
        self.node.owners().find(who).map_err(|e| match e {
            NotFound::Unknown => format!("no node is called `{who}`; `aegisray routes` lists the nodes"),
            NotFound::Several => {
                format!("several nodes are called `{who}`, or could be meant; use a NodeId (`aegisray routes --json`)")
            }
        })
    }

    fn daemon_status(&self) -> DaemonStatus {
        let Report { restored, missing } = self.keeper.report();
        let mut node = self.node.status();
        node.notes.extend(self.overlaps.iter().cloned());
        let foreign = self.shared.counters.foreign_handshakes.load(std::sync::atomic::Ordering::Relaxed);
        if foreign > 0 {
            *node.refused.entry(Refusal::WrongNetwork.to_string()).or_default() += foreign;
        }
        for reason in forward::Drop::ALL {
            *node.dropped.entry(reason.name().to_owned()).or_default() += self.shared.counters.dropped(reason);
        }
        DaemonStatus {
            node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.clock.now().0 / 1_000_000,
            interface: self.config.interface.clone(),
            mtu: self.config.mtu,
            listen: self.shared.socket().local_addr().unwrap_or(self.config.listen),
            rss_kib: host::resident_kib(std::process::id()).unwrap_or(0),
            offloads: self.offloads(),
            queues: (self.shared.tun.queues(), self.shared.sockets.main().len()),
            traffic: self.traffic(),
            stealth: (self.config.stealth.mode.name().to_owned(), Client::HELLO.to_owned()),
            restored,
            missing,
        }
    }

    /// The offloads that the kernel has and the configuration allows.
    fn offloads(&self) -> BTreeMap<String, bool> {
        let (tun, udp) = (self.shared.tun.offloads(), self.shared.socket().offloads());
        let all = [("tun_tcp", tun.tcp), ("tun_udp", tun.udp), ("udp_send", udp.send), ("udp_receive", udp.receive)];
        all.into_iter().map(|(name, on)| (name.to_owned(), on)).collect()
    }

    /// Counters of the data plane, by name.
    fn traffic(&self) -> BTreeMap<String, u64> {
        use std::sync::atomic::Ordering::Relaxed;
        let c = &self.shared.counters;
        [
            ("sent_packets", &c.sent_packets),
            ("sent_bytes", &c.sent_bytes),
            ("received_packets", &c.received_packets),
            ("received_bytes", &c.received_bytes),
            ("relayed_packets", &c.relayed_packets),
            ("relayed_bytes", &c.relayed_bytes),
            ("send_errors", &c.send_errors),
            ("tun_errors", &c.tun_errors),
            ("too_big", &c.too_big),
            ("congested", &c.congested),
            ("queue_marks", &c.queue_marks),
            ("tun_reads", &c.tun_reads),
            ("tun_writes", &c.tun_writes),
            ("udp_sends", &c.udp_sends),
            ("udp_receives", &c.udp_receives),
            ("stun_requests", &c.stun_requests),
            ("beacons_ignored", &c.beacons_ignored),
            ("turn_ignored", &c.turn_ignored),
            ("streams_refused", &self.shared.sockets.streams_refused),
            ("streams_displaced", &self.shared.sockets.streams_displaced),
        ]
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), counter.load(Relaxed)))
        .collect()
    }

    fn exit_status(&self) -> ExitStatus {
        let current = self.node.exit();
        let since = self.node.exit_since().map_or(0, |since| self.clock.now().since(since).as_secs());
        ExitStatus {
            choice: self.node.exit_choice().to_string(),
            kill_switch: self.config.exit.kill_switch,
            open: self.tunnel.complaint(),
            name: current.map(|id| self.name_of(&id)),
            node_id: current.map(|id| id.to_string()),
            since_s: since,
            offers: self.node.exit_offers(self.clock.now()),
        }
    }

    /// Goes through another exit from now on. A node that offers none is not waited for.
    fn change_exit(&mut self, choice: ExitChoice) -> Result<(), String> {
        if let ExitChoice::Node(who) = &choice {
            let id = self.find(who)?.to_string();
            if !self.node.exit_offers(self.clock.now()).iter().any(|o| o.node_id == id) {
                return Err(format!("{who} is no exit, or can't be reached; `aegisray exit` lists the exits"));
            }
        }
        let before = self.node.exit_choice().clone();
        self.node.set_exit(self.clock.now(), choice);
        self.follow_exit().map_err(|e| {
            self.node.set_exit(self.clock.now(), before);
            // All or nothing: what it was before, it can be again.
            let _ = self.follow_exit();
            format!("cannot lead packets into the tunnel: {e}; the exit is what it was")
        })
    }

    fn invite(&mut self, valid_s: u64, name: String, groups: Vec<String>, mut bootstrap: Vec<String>) -> Response {
        if bootstrap.is_empty() {
            let own = self.node.status().endpoints;
            bootstrap = own.iter().map(ToString::to_string).chain(self.config.bootstrap.clone()).collect();
            bootstrap.truncate(8);
        }
        if bootstrap.is_empty() {
            let message = "this node knows no address under which a new node could reach it: give one with \
                           --bootstrap HOST:PORT, or set listen.advertise"
                .to_owned();
            return Response::Error { message };
        }
        let is_name = |g: &String| {
            (1..=63).contains(&g.len()) && g.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        if groups.len() > MAX_GROUPS || !groups.iter().all(is_name) {
            let message = format!("at most {MAX_GROUPS} groups, each of 1 to 63 letters, digits, `-`, `.` or `_`");
            return Response::Error { message };
        }
        if let Err(message) = check_invited(&self.node, unix_now(), &name) {
            return Response::Error { message };
        }
        let expires = unix_now().saturating_add(valid_s);
        let mut admission = None;
        let needs_certificate = self.config.network.authority().is_some();
        if needs_certificate {
            let Ok(secret) = host::random::<32>() else {
                return Response::Error { message: "the system gave no randomness".to_owned() };
            };
            let invitation = Invitation { key: InviteKey::derive(&secret), expires, name, groups, used_by: None };
            let outcome = self.node.invite(self.clock.now(), invitation);
            if outcome == Err(Refusal::TooMuch) {
                let message = "too many invitations are open: wait until some of them have expired".to_owned();
                return Response::Error { message };
            }
            if outcome.is_err() {
                let message = "this node has no authority key (network.authority_key_file): invite from the node that \
                               has it, or issue a certificate with `aegisray cert issue`"
                    .to_owned();
                return Response::Error { message };
            }
            admission = Some(secret);
        }
        let invite = Invite {
            network: self.config.network.name().to_owned(),
            secret: self.config.secret.as_ref().map(|secret| secret.to_string()),
            authority: self.config.network.authority().map(<[u8]>::to_vec),
            bootstrap,
            admission,
            inviter: admission.map(|_| self.node.id()),
            expires,
            cidr: self.config.network.cidr().to_string(),
        };
        Response::Token { token: invite.to_token(), one_time: needs_certificate }
    }
}

/// Whether a certificate may give somebody new this name; empty: none.
fn check_invited(node: &Node, now: UnixTime, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    check_label(name).map_err(|e| format!("{e} (--name)"))?;
    if let Some(id) = node.owners().certified_name_owner(name) {
        return Err(format!(
            "`{name}` is the certified name of {id}: choose another one (--name), or revoke that certificate first"
        ));
    }
    let mut pending = node.invitations().iter().filter(|i| i.expires > now);
    match pending.find(|i| i.name.eq_ignore_ascii_case(name)) {
        Some(i) => {
            let left = i.expires.saturating_sub(now);
            Err(format!(
                "`{name}` is promised to whoever uses another invite, for {left} s more: choose another one (--name)"
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::SigningKey,
        identity::{Authority, Certificate, Identity, Network, RecordContent},
        node::NodeConfig,
        types::Instant,
    };

    #[test]
    fn no_invite_promises_a_name_that_is_somebodys() {
        let identity = |seed: u8| Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap();
        let authority = Authority::new(identity(9));
        let cidr = "100.64.0.0/16".parse().unwrap();
        let network = Network::new("n", Some("secret"), Some(authority.spki().to_vec()), cidr);
        let certificate = Certificate {
            node: identity(2).id(),
            name: "boss".to_owned(),
            addresses: vec![],
            prefixes: vec![],
            groups: vec![],
            not_before: 0,
            not_after: 5000,
            serial: [7; 16],
        };
        let certificate = authority.issue(&certificate);
        let boss =
            identity(2).announce(&network, &RecordContent { certificate, ..Default::default() }, 5, 7200).unwrap();
        let mut config = NodeConfig::new(network.clone(), RecordContent::default(), 1000);
        config.authority = Some(authority);
        let mut node = Node::new(config, identity(1), Box::new(network.clone()), [7; 32], Instant(0)).unwrap();
        node.add_known(Instant(0), &boss.bytes, &boss.record.bytes);
        let invitation = Invitation {
            key: InviteKey::derive(&[1; 32]),
            expires: 2000,
            name: "Late".to_owned(),
            groups: vec![],
            used_by: None,
        };
        node.invite(Instant(0), invitation).unwrap();
        let refused = |name: &str, now| check_invited(&node, now, name).err();
        assert_eq!((refused("", 1000), refused("new", 1000)), (None, None));
        assert!(refused("BOSS", 1000).is_some_and(|why| why.contains("certified name of")));
        assert!(refused("late", 1500).is_some_and(|why| why.contains("for 500 s more")));
        assert_eq!(refused("late", 2000), None);
        for bad in ["wpad", "a.b", &identity(2).id().to_string()] {
            assert!(refused(bad, 1000).is_some_and(|why| why.ends_with("(--name)")), "{bad}");
        }
    }
}
