//! What must hold in every state that can be reached.

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
};

use super::{
    super::*,
    world::{Actor, Label, Message},
};

/// A session, or half of one, that a node has held at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Held {
    who: NodeId,
    start: u32,
    local: u32,
    remote: u32,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    /// It has said this second or third message, for which it needed its key and the other's fresh one.
    Said(u8),
    /// With whom, and what tells the keys of both directions apart.
    Whole(NodeId, [u64; 2]),
}

/// A session that both ends hold and have confirmed, by the index at each.
pub(super) type Live = BTreeSet<(NodeId, u32, NodeId, u32)>;

#[derive(Default)]
pub(super) struct Ledger {
    held: BTreeSet<Held>,
    /// The newest start of the second with which the first has confirmed a session in its present life.
    proven: BTreeSet<(NodeId, u32, NodeId, u32)>,
    /// What this node sent there was carried on to its peer.
    carried: BTreeSet<(NodeId, SocketAddr)>,
    /// Who got a certificate of an invitation.
    admitted: BTreeSet<NodeId>,
    pub faults: Vec<String>,
}

impl Hash for Ledger {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What was held is what the messages and the nodes tell; these decide on later verdicts.
        (&self.proven, &self.carried, &self.admitted).hash(state);
    }
}

impl Ledger {
    pub fn carried(&mut self, by: NodeId, to: SocketAddr) {
        self.carried.insert((by, to));
    }

    pub fn has_carried(&self, by: NodeId, to: SocketAddr) -> bool {
        self.carried.contains(&(by, to))
    }

    /// Writes down who holds what.
    pub fn note(&mut self, actors: &[Actor], messages: &[Message]) {
        for m in messages {
            if let Label::Handshake(kind @ (2 | 3 | 5), local, remote) = m.label {
                let (who, start) = (actors[m.from].id, m.start);
                self.held.insert(Held { who, start, local, remote, what: What::Said(kind) });
            }
        }
        for a in actors {
            let (who, start) = (a.id, a.start);
            let whole = |t: &Arc<Transport>| Held {
                who,
                start,
                local: t.local_index,
                remote: t.remote_index,
                what: What::Whole(t.peer, t.key_marks()),
            };
            let known = &mut self.held;
            let sessions = a.node.peers.values().flat_map(|p| &p.sessions).map(|s| &s.transport);
            for t in sessions.chain(a.node.claims.sessions()) {
                let is_new = !known.iter().any(|h| {
                    (h.who, h.start, h.local, h.remote) == (who, start, t.local_index, t.remote_index)
                        && matches!(h.what, What::Whole(..))
                });
                if is_new {
                    known.insert(whole(t));
                }
            }
            self.admitted.extend(a.node.invitations.iter().filter_map(|i| i.used_by.as_ref()).map(|u| u.0));
        }
    }

    /// Sessions that both ends hold in their present lives, and have confirmed.
    pub fn live(&self, actors: &[Actor]) -> Live {
        let confirmed = |a: &Actor| -> Vec<(NodeId, u32, NodeId, u32)> {
            let sessions = a.node.peers.values().flat_map(|p| &p.sessions).map(|s| &s.transport);
            sessions.filter(|t| t.is_confirmed()).map(|t| (a.id, t.local_index, t.peer, t.remote_index)).collect()
        };
        let honest = || actors.iter().filter(|a| !a.hostile);
        let all: BTreeSet<_> = honest().flat_map(confirmed).collect();
        all.iter().copied().filter(|(a, local, b, remote)| all.contains(&(*b, *remote, *a, *local))).collect()
    }

    /// Looks whether all rules hold. `before`: the live sessions before the attacker alone did something.
    pub fn check(&mut self, actors: &[Actor], before: Option<Live>) {
        if let Some(lost) = before.and_then(|before| before.difference(&self.live(actors)).next().copied()) {
            let name = |id| actors.iter().find(|a| a.id == id).map_or('?', |a| a.name);
            self.fault(format!(
                "a live session of {} with {} is gone by the attacker's doing",
                name(lost.0),
                name(lost.2)
            ));
        }
        for a in actors.iter().filter(|a| !a.hostile) {
            self.check_sessions(actors, a);
            self.check_links(actors, a);
            self.check_certificate(actors, a);
        }
        let joiner = actors.iter().find(|a| a.name == 'B').map(|a| a.id);
        if let Some(thief) = self.admitted.iter().find(|id| Some(**id) != joiner) {
            let name = actors.iter().find(|a| a.id == *thief).map_or('?', |a| a.name);
            self.fault(format!("the invite that B was given has admitted {name}"));
        }
    }

    fn fault(&mut self, words: String) {
        self.faults.push(words);
    }

    /// No effect without key confirmation, and both ends agree on keys and peer.
    fn check_sessions(&mut self, actors: &[Actor], a: &Actor) {
        for (id, peer) in a.node.peers.iter() {
            let Some(b) = actors.iter().find(|b| b.id == *id) else {
                self.fault(format!("{} has a peer that nobody is", a.name));
                continue;
            };
            for s in &peer.sessions {
                let t = &s.transport;
                let of_peer: Vec<Held> = self
                    .held
                    .iter()
                    .filter(|h| h.who == b.id && h.local == t.remote_index && h.remote == t.local_index)
                    .copied()
                    .collect();
                let [send, recv] = t.key_marks();
                let agrees = of_peer.iter().any(|h| h.what == What::Whole(a.id, [recv, send]));
                let is_whole = of_peer.iter().any(|h| matches!(h.what, What::Whole(..)));
                // It may have taken part, and given it up at once. Then the last that it said is the proof.
                let last = |h: &Held| match h.what {
                    What::Said(3) => !s.initiator,
                    What::Said(_) => s.initiator && !t.is_confirmed(),
                    What::Whole(..) => false,
                };
                let proves = !is_whole && of_peer.iter().any(last);
                if t.peer != b.id || !agrees && !proves {
                    let words = if is_whole {
                        "with other keys, or as another's"
                    } else {
                        "never: nobody has shown to have the key"
                    };
                    self.fault(format!(
                        "{} acts on a session with {} that {} has held {words}",
                        a.name, b.name, b.name
                    ));
                }
                let start = b.boots.iter().position(|boot| *boot == s.boot).map_or(0, |n| n as u32);
                if t.is_confirmed() {
                    self.proven.retain(|p| !(p.0 == a.id && p.1 == a.start && p.2 == b.id && p.3 < start));
                    if !self.proven.iter().any(|p| p.0 == a.id && p.1 == a.start && p.2 == b.id) {
                        self.proven.insert((a.id, a.start, b.id, start));
                    }
                }
            }
            let proven = self.proven.iter().find(|p| p.0 == a.id && p.1 == a.start && p.2 == b.id).map(|p| p.3);
            let boot =
                peer.boot.map(|(boot, _)| b.boots.iter().position(|known| *known == boot).map_or(0, |n| n as u32));
            if boot.is_some_and(|boot| proven.is_some_and(|proven| boot < proven)) {
                self.fault(format!("{} has gone back to an earlier life of {}", a.name, b.name));
            }
        }
    }

    /// A link is where the peer is, or where something is that carries on what is sent to it.
    fn check_links(&mut self, actors: &[Actor], a: &Actor) {
        for (id, peer) in a.node.peers.iter() {
            let Some(b) = actors.iter().find(|b| b.id == *id) else { continue };
            let Some(link) = peer.link.as_ref().filter(|l| l.up) else { continue };
            if !peer.sessions.iter().any(|s| s.initiator || s.transport.is_confirmed()) {
                self.fault(format!("{} has a link with {} and no session that is proven", a.name, b.name));
            }
            if link.addr != b.addr && !self.has_carried(a.id, link.addr) {
                self.fault(format!("the link of {} with {} leads where {} is not", a.name, b.name, b.name));
            }
        }
    }

    /// A node's certificate is the one it was started with, or that the inviter has issued to it.
    fn check_certificate(&mut self, actors: &[Actor], a: &Actor) {
        let own = &a.node.own.content.certificate;
        let mut issued = actors.iter().flat_map(|b| &b.node.invitations).filter_map(|i| i.used_by.as_ref());
        let is_started_with = *own == a.given || own.is_empty();
        if !is_started_with && !issued.any(|(id, bytes)| *id == a.id && bytes == own) {
            self.fault(format!("{} says what nobody has certified", a.name));
        }
    }
}
