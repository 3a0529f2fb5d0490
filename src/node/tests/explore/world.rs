//! Two honest nodes, an attacker's own nodes, and every datagram that was ever sent.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{super::*, rules::Ledger, scenes::Make};
use crate::types::mutants;

/// Where the attacker is.
pub(super) const ELSEWHERE: u8 = 66;
/// Of the packets of sessions that one node sends to another in one step, the attacker keeps so many.
const KEPT_PACKETS: usize = 2;
/// How long a step of the attacker's takes.
const STEP: Duration = Duration::from_millis(1);
/// By then packets have to pass again, once the attacker has gone.
const HEALING: Duration = Duration::from_secs(60);

/// What is written down of a node and outlives its restart, as the daemon's files do.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    pub certificate: Option<Vec<u8>>,
    pub invitations: Option<Vec<Invitation>>,
    pub seqno: SeqNo,
}

pub(super) struct Actor {
    pub name: char,
    pub addr: SocketAddr,
    pub id: NodeId,
    /// It is the attacker's, as far as it can make it do something.
    pub hostile: bool,
    /// How often it was started; the first time is 0.
    pub start: u32,
    /// What it called each of its starts.
    pub boots: Vec<u32>,
    pub files: Files,
    pub node: Node,
    /// The certificate that it was first started with.
    pub given: Vec<u8>,
    make: Make,
}

/// What tells one message from another, whatever its random bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Label {
    /// Kind, sender's and receiver's index.
    Handshake(u8, u32, u32),
    Cookie(u32),
    /// Receiver's index and counter.
    Packet(u32, u64),
    Relayed(u32, u64),
}

/// A message that was sent: all its fragments.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub from: usize,
    pub start: u32,
    pub to: SocketAddr,
    pub label: Label,
    datagrams: Vec<Vec<u8>>,
    /// Whether whom it was meant for has got it.
    pub arrived: bool,
    /// The attacker has held it back.
    held: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Choice {
    /// The attacker has message number `message` arrive at `at`, as if `from` had sent it.
    Deliver { message: usize, at: usize, from: u8 },
    /// For a second, the network carries what is sent, and has been sent and has not arrived.
    Calm,
    /// A second goes by, and nothing arrives.
    Silence,
    /// A node ends without a word, and is started again.
    Restart(usize),
    /// A user of the first sends a packet to the second.
    Send(usize, usize),
    /// The attacker's node begins a handshake.
    Begin(usize, usize),
    /// The attacker's node says to its neighbour that this is its certificate.
    Grant { by: usize, to: usize, which: usize },
}

pub(super) struct World {
    pub now: Instant,
    pub actors: Vec<Actor>,
    pub messages: Vec<Message>,
    pub ledger: Ledger,
    /// Certificates that the attacker's nodes hand out.
    pub junk: Vec<Vec<u8>>,
    pub history: Vec<String>,
    pub silence: u32,
    pub restarts: u32,
    pub max_restarts: u32,
    pub sends: bool,
    /// Who got packets of users.
    delivered: BTreeSet<usize>,
}

impl World {
    pub fn new() -> Self {
        Self {
            now: Instant(1),
            actors: Vec::new(),
            messages: Vec::new(),
            ledger: Ledger::default(),
            junk: Vec::new(),
            history: Vec::new(),
            silence: 0,
            restarts: 0,
            max_restarts: 2,
            sends: false,
            delivered: BTreeSet::new(),
        }
    }

    pub fn add(&mut self, name: char, seed: u8, hostile: bool, make: Make) {
        let files = Files { seqno: 1000, ..Files::default() };
        let node = make(seed, &files, 0, self.now);
        let boots = vec![node.own.content.boot];
        let given = node.own.content.certificate.clone();
        self.actors.push(Actor {
            given,
            name,
            addr: addr(seed),
            id: node.id(),
            hostile,
            start: 0,
            boots,
            files,
            node,
            make,
        });
    }

    fn actor_at(&self, to: SocketAddr) -> Option<usize> {
        self.actors.iter().position(|a| a.addr == to)
    }

    /// Everything that the attacker, time and the nodes' owners can do now.
    pub fn choices(&self) -> Vec<Choice> {
        let mut all = Vec::new();
        let number = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let honest: Vec<usize> = (0..self.actors.len()).filter(|i| !self.actors[*i].hostile).collect();
        for (message, m) in self.messages.iter().enumerate() {
            let sender = &self.actors[m.from];
            let from = number(sender.addr);
            let meant_for = self.actor_at(m.to).or_else(|| honest.iter().copied().find(|i| *i != m.from));
            if let Some(at) = meant_for {
                all.push(Choice::Deliver { message, at, from });
                all.push(Choice::Deliver { message, at, from: ELSEWHERE });
            }
            if !sender.hostile {
                // To its own sender, from where it was to go.
                all.push(Choice::Deliver { message, at: m.from, from: number(m.to) });
            }
            for at in (0..self.actors.len()).filter(|i| *i != m.from && Some(*i) != meant_for) {
                if matches!(m.label, Label::Handshake(..)) && !sender.hostile {
                    all.push(Choice::Deliver { message, at, from });
                }
            }
        }
        for by in (0..self.actors.len()).filter(|i| self.actors[*i].hostile) {
            for to in honest.iter().copied() {
                all.push(Choice::Begin(by, to));
                let is_linked = self.actors[by].node.peers.get(&self.actors[to].id).is_some_and(|p| p.is_up());
                all.extend((0..self.junk.len()).filter(|_| is_linked).map(|which| Choice::Grant { by, to, which }));
            }
        }
        all.extend([Choice::Calm, Choice::Silence]);
        if self.sends {
            all.push(Choice::Send(honest[0], honest[1]));
            all.push(Choice::Send(honest[1], honest[0]));
        }
        if self.restarts < self.max_restarts {
            all.extend(honest.iter().map(|i| Choice::Restart(*i)));
        }
        all
    }

    /// Does it. What no rule allows is in the ledger then.
    pub fn act(&mut self, choice: Choice) {
        let words = self.words(choice);
        self.history.push(words);
        let before = self.ledger.live(&self.actors);
        self.now = self.now + STEP;
        match choice {
            Choice::Deliver { message, at, from } => self.deliver(message, at, addr(from)),
            Choice::Calm => self.calm(Duration::from_secs(1)),
            Choice::Silence => self.wait(Duration::from_secs(1)),
            Choice::Restart(i) => self.restart(i),
            Choice::Send(from, to) => {
                let packet = self.packet(from, to);
                let now = self.now;
                self.actors[from].node.handle_tun(now, &packet);
                self.collect();
            }
            Choice::Begin(by, to) => {
                let (now, to_addr, to_id) = (self.now, self.actors[to].addr, self.actors[to].id);
                if let Some(proof) = self.actors.iter().filter(|a| a.hostile).find_map(|a| mutants::heard(a.id)) {
                    mutants::steal(self.actors[by].id, proof);
                }
                let node = &mut self.actors[by].node;
                let known = node.routing.origin(&to_id).and_then(|o| node.routing.announcement(o));
                let known = known.map(|k| (k.id, k.record.noise_static));
                node.door.connect(now, Via::Direct(to_addr), known, PROVEN_TRIES);
                node.settle(now);
                self.collect();
                self.carry_hostile();
            }
            Choice::Grant { by, to, which } => {
                let (now, id) = (self.now, self.actors[to].id);
                let granted = crate::wire::frame::Kind::Granted(self.junk[which].clone());
                self.actors[by].node.send_raw(now, id, crate::wire::frame::encode(granted));
                self.collect();
                self.carry_hostile();
            }
        }
        let alone = matches!(choice, Choice::Deliver { .. } | Choice::Begin(..) | Choice::Grant { .. });
        self.ledger.check(&self.actors, alone.then_some(before));
    }

    fn packet(&self, from: usize, to: usize) -> Vec<u8> {
        let (IpAddr::V4(a), IpAddr::V4(b)) =
            (self.actors[from].node.addresses()[0], self.actors[to].node.addresses()[0])
        else {
            return Vec::new();
        };
        let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&a.octets());
        packet.extend_from_slice(&b.octets());
        packet.resize(60, 7);
        packet
    }

    fn deliver(&mut self, message: usize, at: usize, from: SocketAddr) {
        let m = &mut self.messages[message];
        let (datagrams, sender, to) = (m.datagrams.clone(), m.from, m.to);
        m.arrived |= self.actors[at].addr == to;
        m.held &= self.actors[at].addr != to;
        if at != sender {
            self.ledger.carried(self.actors[sender].id, to);
        }
        let now = self.now;
        for mut datagram in datagrams {
            self.actors[at].node.handle_datagram(now, from, 1, &mut datagram);
        }
        self.collect();
        self.carry_hostile();
    }

    /// What goes to and from the attacker's own nodes is not held up.
    fn carry_hostile(&mut self) {
        while let Some(message) = self.messages.iter().position(|m| {
            let to = self.actor_at(m.to);
            !m.arrived && (self.actors[m.from].hostile || to.is_some_and(|to| self.actors[to].hostile)) && to.is_some()
        }) {
            self.pass(message);
        }
    }

    /// A message arrives where it was meant to, or is lost.
    fn pass(&mut self, message: usize) {
        let m = &mut self.messages[message];
        m.arrived = true;
        let (from, to) = (self.actors[m.from].addr, m.to);
        let datagrams = m.datagrams.clone();
        self.now = self.now + Duration::from_micros(200);
        let now = self.now;
        let Some(at) = self.actor_at(to) else { return };
        for mut datagram in datagrams {
            self.actors[at].node.handle_datagram(now, from, 1, &mut datagram);
        }
        self.collect();
    }

    /// The first message of this node's that has not arrived does.
    pub fn pass_first(&mut self, from: usize) {
        if let Some(message) = self.messages.iter().position(|m| m.from == from && !m.arrived) {
            self.pass(message);
        }
    }

    /// Leaves everything to the network for a minute. Returns whether packets of users pass then, both ways.
    pub fn heals(&mut self) -> bool {
        self.calm(HEALING);
        self.delivered.clear();
        for (from, to) in [(0, 1), (1, 0)] {
            let (packet, now) = (self.packet(from, to), self.now);
            self.actors[from].node.handle_tun(now, &packet);
            self.collect();
        }
        self.calm(Duration::from_secs(1));
        self.ledger.faults.is_empty() && [0, 1].iter().all(|i| self.delivered.contains(i))
    }

    /// One message arrives, or time goes on to what is due next.
    pub fn calm_step(&mut self) {
        match self.messages.iter().position(|m| !m.arrived) {
            Some(message) => self.pass(message),
            None => self.calm(Duration::from_millis(1)),
        }
    }

    /// From now on the network does not carry what has not arrived: it is for the attacker to use.
    pub fn hold(&mut self) {
        self.messages.iter_mut().for_each(|m| (m.arrived, m.held) = (true, !m.arrived));
    }

    pub fn calm(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while let Some(message) = self.messages.iter().position(|m| !m.arrived) {
                self.pass(message);
            }
            let next = self.actors.iter_mut().map(|a| a.node.poll_timeout(self.now)).min();
            let Some(next) = next.filter(|next| *next < end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            self.actors.iter_mut().for_each(|a| a.node.handle_timeout(now));
            self.collect();
        }
        self.now = self.now.max(end);
    }

    pub fn wait(&mut self, time: Duration) {
        self.silence += 1;
        let end = self.now + time;
        loop {
            let next = self.actors.iter_mut().map(|a| a.node.poll_timeout(self.now)).min();
            let Some(next) = next.filter(|next| *next < end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            self.actors.iter_mut().for_each(|a| a.node.handle_timeout(now));
        }
        self.now = self.now.max(end);
        self.collect();
        self.carry_hostile();
    }

    pub fn restart(&mut self, i: usize) {
        self.restarts += 1;
        let now = self.now;
        let actor = &mut self.actors[i];
        actor.start += 1;
        actor.files.seqno = actor.node.own_state().1 + 1;
        actor.files.invitations = Some(actor.node.invitations().to_vec());
        actor.node = (actor.make)(actor.addr_number(), &actor.files, actor.start, now);
        actor.boots.push(actor.node.own.content.boot);
        self.collect();
    }

    /// Takes in what the nodes have to send and to say.
    pub fn collect(&mut self) {
        for from in 0..self.actors.len() {
            let actor = &mut self.actors[from];
            let mut sent: Vec<Message> = Vec::new();
            while let Some(t) = actor.node.poll_transmit() {
                let (Some(label), false) = (label(&t.bytes), t.whole) else { continue };
                match sent.iter_mut().find(|m| m.label == label && m.to == t.to) {
                    Some(m) if !m.datagrams.contains(&t.bytes) => m.datagrams.push(t.bytes),
                    Some(_) => {}
                    None => {
                        let (start, to) = (actor.start, t.to);
                        sent.push(Message {
                            from,
                            start,
                            to,
                            label,
                            datagrams: vec![t.bytes],
                            arrived: false,
                            held: false,
                        });
                    }
                }
            }
            while let Some(event) = actor.node.poll_event() {
                match event {
                    Event::Certified(certificate) => actor.files.certificate = Some(certificate),
                    // UDP, and no answer of its own node's.
                    Event::Deliver(packet) if packet.get(9) == Some(&17) => {
                        self.delivered.insert(from);
                    }
                    _ => {}
                }
            }
            let mut packets = BTreeSet::new();
            for m in sent {
                let is_packet = !matches!(m.label, Label::Handshake(..));
                let so_far = packets.iter().filter(|(to, _)| *to == m.to).count();
                if is_packet && so_far >= KEPT_PACKETS {
                    continue;
                }
                packets.extend(is_packet.then_some((m.to, m.label)));
                match self
                    .messages
                    .iter_mut()
                    .find(|k| (k.from, k.start, k.to, k.label) == (m.from, m.start, m.to, m.label))
                {
                    // Sent again.
                    Some(known) => (known.arrived, known.datagrams) = (false, m.datagrams),
                    None => self.messages.push(m),
                }
            }
        }
        self.forget_opened();
        self.ledger.note(&self.actors, &self.messages);
    }

    /// Of the packets of a session that have arrived, one stays to be repeated.
    fn forget_opened(&mut self) {
        let mut kept = BTreeSet::new();
        let mut keep: Vec<bool> = Vec::new();
        for m in self.messages.iter().rev() {
            let is_packet = matches!(m.label, Label::Packet(..) | Label::Relayed(..));
            let index = match m.label {
                Label::Packet(index, _) | Label::Relayed(index, _) => index,
                _ => 0,
            };
            keep.push(!is_packet || !m.arrived || m.held || kept.insert((m.from, m.start, index)));
        }
        let mut keep = keep.into_iter().rev();
        self.messages.retain(|_| keep.next().unwrap_or(true));
    }

    /// Which state this is: of two that are told alike here, one is gone on from.
    pub fn fingerprint(&mut self) -> u64 {
        let mut all = DefaultHasher::new();
        for i in 0..self.actors.len() {
            self.node_mark(i).hash(&mut all);
        }
        let mut labels: Vec<_> =
            self.messages.iter().map(|m| (m.from, m.start, m.to, m.label, m.arrived, m.held)).collect();
        labels.sort_unstable();
        (labels, self.silence, self.restarts).hash(&mut all);
        self.ledger.hash(&mut all);
        all.finish()
    }

    /// What matters of each node.
    pub fn marks(&mut self) -> Vec<u64> {
        (0..self.actors.len()).map(|i| self.node_mark(i)).collect()
    }

    fn node_mark(&mut self, i: usize) -> u64 {
        let actor = &mut self.actors[i];
        let mut h = DefaultHasher::new();
        (actor.start, &actor.files.certificate).hash(&mut h);
        let node = &mut actor.node;
        (node.own.seqno(), node.own.admission.is_some(), &node.own.content.certificate).hash(&mut h);
        for (id, peer) in node.peers.iter() {
            (id, peer.boot.map(|b| b.0), peer.is_behind, peer.waiting.len(), peer.info.seqno).hash(&mut h);
            peer.grant.as_ref().map(|g| &g.0).hash(&mut h);
            for s in &peer.sessions {
                let t = &s.transport;
                (t.local_index, t.remote_index, t.is_confirmed(), t.is_guest(), s.initiator, s.boot).hash(&mut h);
                (t.received_bytes(), s.superseded.is_some()).hash(&mut h);
            }
            let link = peer.link.as_ref();
            link.map(|l| (l.addr, l.up, l.candidate.map(|c| c.0), l.srtt().is_some())).hash(&mut h);
        }
        let mut claims: Vec<u32> = node.claims.sessions().map(|t| t.local_index).collect();
        claims.sort_unstable();
        claims.hash(&mut h);
        let mut origins: Vec<_> = node.routing.announcements().map(|a| (a.id, a.seqno)).collect();
        origins.sort_unstable();
        for (id, seqno) in origins {
            (id, seqno, node.routing.origin(&id).and_then(|o| node.routing.next_hop(o))).hash(&mut h);
        }
        node.invitations.iter().for_each(|i| i.used_by.as_ref().map(|u| u.0).hash(&mut h));
        if let Some(sessions) = node.door.here() {
            let mut halves: Vec<u64> = sessions.halves().iter().map(mark).collect();
            halves.sort_unstable();
            (halves, sessions.memory()).hash(&mut h);
        }
        h.finish()
    }

    /// What is remembered of a choice that changes nothing, so that it need not be tried again with the same node.
    pub fn idle_key(&self, choice: Choice, marks: &[u64]) -> Option<u64> {
        let Choice::Deliver { message, at, from } = choice else { return None };
        let m = &self.messages[message];
        let what = (m.from, m.start, m.to, m.label, m.arrived || self.actors[at].addr != m.to, at, from);
        let has_carried = self.ledger.has_carried(self.actors[m.from].id, m.to);
        Some(mark(&(marks[at], what, has_carried)))
    }
}

impl Actor {
    fn addr_number(&self) -> u8 {
        match self.addr.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        }
    }
}

fn mark(what: &impl Hash) -> u64 {
    let mut h = DefaultHasher::new();
    what.hash(&mut h);
    h.finish()
}

fn label(bytes: &[u8]) -> Option<Label> {
    Some(match packet::parse(bytes).ok()? {
        Datagram::Handshake(f) => Label::Handshake(f.kind.byte(), f.sender, f.receiver),
        Datagram::Cookie { receiver, .. } => Label::Cookie(receiver),
        Datagram::Data { receiver, counter } => Label::Packet(receiver, counter),
        Datagram::Hop(h) => Label::Relayed(h.receiver, h.counter),
        Datagram::Beacon(_) => return None,
    })
}

impl World {
    fn words(&self, choice: Choice) -> String {
        let name = |i: usize| self.actors[i].name;
        match choice {
            Choice::Deliver { message, at, from } => {
                let m = &self.messages[message];
                let what = match m.label {
                    Label::Handshake(kind, ..) => {
                        ["?", "XX1", "XX2", "XX3", "IK1", "IK2"][usize::from(kind).min(5)].to_owned()
                    }
                    Label::Cookie(_) => "cookie".to_owned(),
                    Label::Packet(index, n) => format!("packet {n} of session {index:08x}"),
                    Label::Relayed(index, n) => format!("relayed packet {n} of session {index:08x}"),
                };
                let life = m.start + 1;
                let from =
                    self.actor_at(addr(from)).map_or("elsewhere".to_owned(), |i| format!("{}'s address", name(i)));
                let again = if m.arrived && !m.held { " (again)" } else { "" };
                format!("{what} of {}'s life {life} arrives at {} from {from}{again}", name(m.from), name(at))
            }
            Choice::Calm => "the network carries everything for a second".to_owned(),
            Choice::Silence => "a second goes by in which nothing arrives".to_owned(),
            Choice::Restart(i) => format!("{} is started anew", name(i)),
            Choice::Send(from, to) => format!("a user at {} sends a packet to {}", name(from), name(to)),
            Choice::Begin(by, to) => format!("the attacker's {} begins a handshake with {}", name(by), name(to)),
            Choice::Grant { by, to, which } => {
                format!("the attacker's {} hands {} certificate number {which}", name(by), name(to))
            }
        }
    }
}
