//! Who may do what: a pure function of the set of acts of authority, whatever order they came in.
//!
//! - R1: an act is good if its author held the role for it, as its own causal past has it.
//! - R2: REVOKE and BAN void the acts of their target that they don't know and that don't know them, and what depends on those.
//! - R3: nobody removes who is of a strictly higher rank. Rank is the distance from the founder along grants.
//! - R4: who remove each other, in pairs or in rings, are all removed. No id and no clock breaks the tie: both can be ground.
//! - R5: removing wins over granting at the same time; a grant or UNBAN counts that knows of the removal.
//! - R6: who leaves loses the role.
//!
//! A CHECKPOINT of the founder voids all acts of others that it doesn't know and that don't know it: the only finality. A device
//! that said two things under one number has no authority from there on, but for what a checkpoint knows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    bits::Bits,
    body::{Body, Kind, Role},
    envelope::{Id, Message},
};

/// Distance from the founder of who has no role.
const NO_RANK: u32 = u32::MAX;

/// What somebody may do at some point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    /// Distance from the founder: less is higher.
    pub rank: u32,
    pub banned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Open,
    Good,
    Void,
}

#[derive(Debug)]
struct Act {
    message: Arc<Message>,
    /// Whose act it is.
    author: Id,
    past: Bits,
    status: Status,
    /// The author's rank when it was found good.
    rank: u32,
    /// Acts that have to be decided first.
    waits: Vec<usize>,
}

/// The acts of a platform, resolved.
#[derive(Debug, Default)]
pub struct Authority {
    /// Acts of who may have had a role at some time: they bear on each other.
    acts: Vec<Act>,
    index: HashMap<Id, usize>,
    /// Joins, names, and acts of who was never given a role: they bear on nothing, however many they are.
    minor: Vec<Act>,
    minor_index: HashMap<Id, usize>,
    founder: Id,
    /// Whose devices are.
    identities: HashMap<Id, Id>,
    /// Acts by whom they are about.
    about: HashMap<Id, Vec<usize>>,
    bans_on: HashMap<Id, Vec<BanOn>>,
    /// Who takes part in a private platform; `None`: it is a public one.
    admitted: Option<HashSet<Id>>,
}

/// A good ban, and the good acts that end it.
#[derive(Debug)]
struct BanOn {
    act: usize,
    shadow: bool,
    lifted: Vec<usize>,
}

/// Whom an act is about.
fn target(message: &Message, author: Id) -> Option<Id> {
    match &message.body {
        Body::Grant { target, .. } | Body::Revoke { target } | Body::Unban { target } | Body::Unshadow { target } => {
            Some(*target)
        }
        Body::Ban(ban) | Body::ShadowBan(ban) => Some(ban.target),
        Body::Leave => Some(author),
        _ => None,
    }
}

impl Authority {
    /// Resolves the acts of `platform`: `acts` holds with each act all that its `auth_heads` name, in any order. `forks`
    /// names devices that said two things under one number, and the lowest such number.
    #[must_use]
    pub fn resolve(platform: Id, acts: &[Arc<Message>], forks: &HashMap<Id, u64>) -> Self {
        let ordered = in_order(acts);
        let mut identities: HashMap<Id, (Id, Id)> = HashMap::new();
        for m in &ordered {
            if let Some(identity) = m.joins() {
                // One that says it belongs to two has forked; any rule does that all follow.
                let entry = identities.entry(m.device).or_insert((m.id, identity));
                *entry = (*entry).min((m.id, identity));
            }
        }
        let identities: HashMap<Id, Id> = identities.into_iter().map(|(device, (_, whose))| (device, whose)).collect();
        let genesis = ordered.iter().find(|m| m.id == platform);
        let founder = genesis.and_then(|m| m.joins()).unwrap_or_default();
        let admitted = genesis.filter(|m| m.founds_private()).map(|_| HashSet::from([founder]));
        let whose = |m: &Message| identities.get(&m.device).copied().unwrap_or_default();
        let may = may_have_roles(founder, &ordered, &whose);
        let is_minor = |m: &Message| {
            matches!(m.head.kind, Kind::Genesis | Kind::Join | Kind::Profile | Kind::Seal | Kind::Prekey)
                || !may.contains(&whose(m))
        };
        let major = ordered.iter().filter(|m| !is_minor(m)).count();
        let mut authority = Self { founder, admitted, ..Self::default() };
        for message in ordered {
            let mut past = Bits::new(major);
            for head in &message.head.auth_heads {
                if let Some(i) = authority.index.get(head) {
                    past.add_all(&authority.acts[*i].past);
                    past.add(*i);
                } else if let Some(i) = authority.minor_index.get(head) {
                    past.add_all(&authority.minor[*i].past);
                }
            }
            let (author, minor) = (whose(&message), is_minor(&message));
            let (acts, index) = if minor {
                (&mut authority.minor, &mut authority.minor_index)
            } else {
                if let Some(target) = target(&message, author) {
                    authority.about.entry(target).or_default().push(authority.acts.len());
                }
                (&mut authority.acts, &mut authority.index)
            };
            index.insert(message.id, acts.len());
            acts.push(Act { message, author, past, status: Status::Open, rank: NO_RANK, waits: Vec::new() });
        }
        authority.identities = identities;
        authority.mark_forks(forks);
        authority.find_waits();
        authority.decide();
        authority.find_bans();
        authority.decide_minor(forks);
        authority.admit(forks);
        authority
    }

    /// Joins and farewells count, names do unless their author is banned; for all else it takes a role.
    fn decide_minor(&mut self, forks: &HashMap<Id, u64>) {
        for i in 0..self.minor.len() {
            let act = &self.minor[i];
            let forked = forks.get(&act.message.device).is_some_and(|from| act.message.head.seq >= *from);
            let good = match act.message.head.kind {
                Kind::Genesis | Kind::Join | Kind::Leave => true,
                Kind::Profile | Kind::Prekey => !self.standing(act.author, &act.past).banned,
                _ => false,
            };
            self.minor[i].status = if good && !forked { Status::Good } else { Status::Void };
        }
    }

    /// Those take part in a private platform whom somebody has let in who takes part: only within the cut, if that is banned.
    fn admit(&mut self, forks: &HashMap<Id, u64>) {
        let Some(mut admitted) = self.admitted.take() else { return };
        let mut seals: HashMap<Id, Vec<usize>> = HashMap::new();
        for (i, act) in self.minor.iter().enumerate().filter(|(_, a)| a.message.head.kind == Kind::Seal) {
            let forked = forks.get(&act.message.device).is_some_and(|from| act.message.head.seq >= *from);
            let bans = self.bans_on.get(&act.author).map_or(&[][..], |all| all).iter().filter(|ban| !ban.shadow);
            if !forked && !bans.into_iter().any(|ban| self.is_beyond(ban, &act.message)) {
                seals.entry(act.author).or_default().push(i);
            }
        }
        let mut next = vec![self.founder];
        while let Some(who) = next.pop() {
            for i in seals.remove(&who).unwrap_or_default() {
                self.minor[i].status = Status::Good;
                let Body::Seal(seal) = &self.minor[i].message.body else { continue };
                next.extend(seal.admits.iter().copied().filter(|id| admitted.insert(*id)));
            }
        }
        self.admitted = Some(admitted);
    }

    /// Acts of devices that forked are void, and those that a checkpoint of the founder finally leaves out.
    fn mark_forks(&mut self, forks: &HashMap<Id, u64>) {
        let forked = |m: &Message| forks.get(&m.device).is_some_and(|from| m.head.seq >= *from);
        let is_checkpoint =
            |a: &Act| a.message.head.kind == Kind::Checkpoint && a.author == self.founder && !forked(&a.message);
        let checkpoints: Vec<usize> = (0..self.acts.len()).filter(|i| is_checkpoint(&self.acts[*i])).collect();
        for i in 0..self.acts.len() {
            let act = &self.acts[i];
            let known = checkpoints.iter().any(|c| self.acts[*c].past.has(i));
            let concurrent = checkpoints.iter().any(|c| *c != i && !self.acts[*c].past.has(i) && !act.past.has(*c));
            let is_forked = forked(&act.message) && !known;
            let is_late = concurrent && act.author != self.founder && act.message.head.kind != Kind::Join;
            if is_forked || is_late {
                self.acts[i].status = Status::Void;
            }
        }
    }

    /// What each act's standing depends on.
    fn find_waits(&mut self) {
        for i in 0..self.acts.len() {
            let act = &self.acts[i];
            let mut waits = Vec::new();
            for of in [Some(act.author), target(&act.message, act.author)].into_iter().flatten() {
                let about = self.about.get(&of).map_or(&[][..], |a| a);
                waits.extend(about.iter().copied().filter(|b| act.past.has(*b)));
            }
            waits.extend(self.removals_beside(i));
            waits.sort_unstable();
            waits.dedup();
            self.acts[i].waits = waits;
        }
    }

    /// Acts that would remove this one's author and that neither know it nor are known to it.
    fn removals_beside(&self, i: usize) -> Vec<usize> {
        let act = &self.acts[i];
        if act.author == self.founder || matches!(act.message.head.kind, Kind::Join | Kind::Leave | Kind::Genesis) {
            return Vec::new();
        }
        let about = self.about.get(&act.author).map_or(&[][..], |a| a);
        let beside = |b: &usize| *b != i && !act.past.has(*b) && !self.acts[*b].past.has(i);
        let removes = |b: &usize| matches!(self.acts[*b].message.head.kind, Kind::Revoke | Kind::Ban);
        about.iter().copied().filter(|b| removes(b) && beside(b)).collect()
    }

    fn decide(&mut self) {
        loop {
            while self.pass() {}
            let open: Vec<usize> = (0..self.acts.len()).filter(|i| self.acts[*i].status == Status::Open).collect();
            if open.is_empty() {
                return;
            }
            // Rings of acts that remove each other's authors: of those that wait for no other ring, all removals are good.
            let rings = first_rings(&open, |i| {
                self.acts[i].waits.iter().copied().filter(|w| self.acts[*w].status == Status::Open).collect()
            });
            let removals =
                rings.iter().copied().filter(|i| matches!(self.acts[*i].message.head.kind, Kind::Revoke | Kind::Ban));
            let found: Vec<(usize, Option<u32>)> = removals.map(|i| (i, self.check(i))).collect();
            for (i, rank) in found {
                self.settle(i, rank);
            }
        }
    }

    /// Decides what can be decided; whether that was anything.
    fn pass(&mut self) -> bool {
        let mut moved = false;
        for i in 0..self.acts.len() {
            if self.acts[i].status != Status::Open {
                continue;
            }
            let beside = self.removals_beside(i);
            if beside.iter().any(|b| self.acts[*b].status == Status::Good) {
                self.acts[i].status = Status::Void;
                moved = true;
            } else if self.acts[i].waits.iter().all(|w| self.acts[*w].status != Status::Open) {
                let rank = self.check(i);
                self.settle(i, rank);
                moved = true;
            }
        }
        moved
    }

    fn settle(&mut self, i: usize, rank: Option<u32>) {
        let act = &mut self.acts[i];
        (act.status, act.rank) = rank.map_or((Status::Void, NO_RANK), |rank| (Status::Good, rank));
    }

    /// Whether the act's past allows it; the author's rank then.
    fn check(&self, i: usize) -> Option<u32> {
        let act = &self.acts[i];
        let own = self.standing(act.author, &act.past);
        let other = |of: Id| self.standing(of, &act.past);
        let removes = |of: Id| {
            let other = other(of);
            let above = other.role == Role::Founder || other.rank < own.rank;
            let may = if other.role == Role::Member { Role::Moderator } else { Role::Powernode };
            own.role >= may && !above
        };
        let may = match &act.message.body {
            Body::Join { .. } | Body::Leave => true,
            _ if own.banned => false,
            Body::Grant { .. } => own.role >= Role::Powernode,
            Body::Revoke { target } => own.role >= Role::Powernode && removes(*target),
            Body::Ban(ban) => removes(ban.target),
            Body::ShadowBan(ban) => own.role >= Role::Moderator && other(ban.target).rank > own.rank,
            Body::Unban { .. } | Body::Unshadow { .. } | Body::Tombstone { .. } => own.role >= Role::Moderator,
            Body::Info { .. } | Body::Channel(_) => own.role >= Role::Powernode,
            Body::Profile { .. } => true,
            Body::Checkpoint => own.role == Role::Founder,
            // Those are no major acts.
            Body::Seal(_) | Body::Prekey { .. } | Body::Content(_) => false,
            Body::Sealed(_) => own.role >= Role::Powernode,
        };
        may.then_some(own.rank)
    }

    fn good<'a>(&'a self, of: Id, past: &'a Bits) -> impl Iterator<Item = usize> + 'a {
        let about = self.about.get(&of).map_or(&[][..], |a| a).iter().copied();
        about.filter(move |i| past.has(*i) && self.acts[*i].status == Status::Good)
    }

    /// What an identity may do where this is known.
    fn standing(&self, of: Id, past: &Bits) -> Standing {
        if of == self.founder {
            return Standing { role: Role::Founder, rank: 0, banned: false };
        }
        let removals: Vec<usize> = self
            .good(of, past)
            .filter(|i| matches!(self.acts[*i].message.head.kind, Kind::Revoke | Kind::Ban | Kind::Leave))
            .collect();
        let banned = !self.bans(of, past, Kind::Ban, Kind::Unban).is_empty();
        let mut standing = Standing { role: Role::Member, rank: NO_RANK, banned };
        for i in self.good(of, past) {
            let act = &self.acts[i];
            let Body::Grant { role, .. } = &act.message.body else { continue };
            if !banned && removals.iter().all(|r| act.past.has(*r)) {
                standing.role = standing.role.max(*role);
                standing.rank = standing.rank.min(act.rank.saturating_add(1));
            }
        }
        standing
    }

    /// The bans of one kind that are in force on somebody where this is known.
    fn bans(&self, of: Id, past: &Bits, ban: Kind, unban: Kind) -> Vec<usize> {
        let lifts = |b: &usize| {
            self.good(of, past).any(|u| self.acts[u].message.head.kind == unban && self.acts[u].past.has(*b))
        };
        self.good(of, past).filter(|b| self.acts[*b].message.head.kind == ban && !lifts(b)).collect()
    }

    fn all(&self) -> Bits {
        let mut all = Bits::new(self.acts.len());
        (0..self.acts.len()).for_each(|i| all.add(i));
        all
    }

    /// What an identity may do now.
    #[must_use]
    pub fn now(&self, of: Id) -> Standing {
        self.standing(of, &self.all())
    }

    /// Whose device this is.
    #[must_use]
    pub fn identity(&self, device: Id) -> Option<Id> {
        self.identities.get(&device).copied()
    }

    /// Whether somebody may take part: on a public platform everybody may.
    #[must_use]
    pub fn admits(&self, who: Id) -> bool {
        self.admitted.as_ref().is_none_or(|all| all.contains(&who))
    }

    /// Who was let in to a private platform; `None`: it is a public one.
    #[must_use]
    pub fn admitted(&self) -> Option<&HashSet<Id>> {
        self.admitted.as_ref()
    }

    /// The devices that have joined, and whose they are.
    pub fn devices(&self) -> impl Iterator<Item = (Id, Id)> {
        self.identities.iter().map(|(device, whose)| (*device, *whose))
    }

    /// Everybody whose device has joined, and who may.
    #[must_use]
    pub fn members(&self) -> Vec<Id> {
        let mut all: Vec<Id> = self.identities.values().copied().filter(|who| self.admits(*who)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether an act is good.
    #[must_use]
    pub fn is_good(&self, id: &Id) -> bool {
        let act = self.index.get(id).map(|i| &self.acts[*i]);
        act.or_else(|| self.minor_index.get(id).map(|i| &self.minor[*i])).is_some_and(|a| a.status == Status::Good)
    }

    /// Whether a ban, or for all but its target a shadow ban, keeps a message of this author out.
    #[must_use]
    pub fn excludes(&self, message: &Message, author: Id, viewer: Id) -> bool {
        let bans = self.bans_on.get(&author).map_or(&[][..], |all| all);
        bans.iter().filter(|ban| !ban.shadow || viewer != author).any(|ban| {
            let (Body::Ban(what) | Body::ShadowBan(what)) = &self.acts[ban.act].message.body else { return false };
            // What was within the cut stays, unless it was purged; what came later counts if it knows that the ban is over.
            let within = what.keeps(message.device, message.head.seq);
            (what.purge && within && !self.knows_end(ban, message)) || self.is_beyond(ban, message)
        })
    }

    fn knows_end(&self, ban: &BanOn, message: &Message) -> bool {
        ban.lifted.iter().any(|lift| self.knows(&message.head.auth_heads, *lift))
    }

    /// Whether a message is beyond a ban's cut, and does not know that it is over.
    fn is_beyond(&self, ban: &BanOn, message: &Message) -> bool {
        let (Body::Ban(what) | Body::ShadowBan(what)) = &self.acts[ban.act].message.body else { return false };
        !what.keeps(message.device, message.head.seq) && !self.knows_end(ban, message)
    }

    /// Whether a ban keeps a message out for which nothing of the author is to stay, not even bytes.
    #[must_use]
    pub fn erases(&self, message: &Message, author: Id) -> bool {
        let bans = self.bans_on.get(&author).map_or(&[][..], |all| all).iter().filter(|b| !b.shadow);
        let purges = |ban: &BanOn| matches!(&self.acts[ban.act].message.body, Body::Ban(what) if what.purge);
        bans.into_iter().any(|ban| purges(ban) && !self.knows_end(ban, message))
    }

    /// Whether a shadow ban on somebody is in force.
    #[must_use]
    pub fn is_silenced(&self, who: Id) -> bool {
        !self.bans(who, &self.all(), Kind::ShadowBan, Kind::Unshadow).is_empty()
    }

    /// Who is kept out of something by a ban or a shadow ban.
    pub fn restricted(&self) -> impl Iterator<Item = Id> {
        self.bans_on.keys().copied()
    }

    /// The acts, in no order of importance: with their authors, and whether each is good.
    pub fn acts(&self) -> impl Iterator<Item = (&Arc<Message>, Id, bool)> {
        self.minor.iter().chain(&self.acts).map(|a| (&a.message, a.author, a.status == Status::Good))
    }

    /// Whether an author who names these heads knew an act.
    fn knows(&self, heads: &[Id], act: usize) -> bool {
        let major = |h: &Id| self.index.get(h).is_some_and(|h| *h == act || self.acts[*h].past.has(act));
        let minor = |h: &Id| self.minor_index.get(h).is_some_and(|h| self.minor[*h].past.has(act));
        heads.iter().any(|h| major(h) || minor(h))
    }

    /// All good bans, by whom they are on.
    fn find_bans(&mut self) {
        let all = self.all();
        let mut found: HashMap<Id, Vec<BanOn>> = HashMap::new();
        for of in self.about.keys() {
            for act in self.good(*of, &all) {
                let (shadow, lifts) = match self.acts[act].message.head.kind {
                    Kind::Ban => (false, Kind::Unban),
                    Kind::ShadowBan => (true, Kind::Unshadow),
                    _ => continue,
                };
                let lifts = |u: &usize| self.acts[*u].message.head.kind == lifts && self.acts[*u].past.has(act);
                let lifted = self.good(*of, &all).filter(lifts).collect();
                found.entry(*of).or_default().push(BanOn { act, shadow, lifted });
            }
        }
        self.bans_on = found;
    }

    /// Whether a good tombstone purges a message of this author: its author was of a higher rank, or the same.
    #[must_use]
    pub fn purges(&self, tombstone: &Message, author: Id) -> bool {
        let Some(act) = self.index.get(&tombstone.id).map(|i| &self.acts[*i]) else { return false };
        act.status == Status::Good && (act.author == author || self.standing(author, &act.past).rank > act.rank)
    }
}

/// The founder, and whoever was granted a role by one of these, counting or not: nobody else can do anything that takes one.
fn may_have_roles(founder: Id, acts: &[Arc<Message>], whose: &impl Fn(&Message) -> Id) -> HashSet<Id> {
    let mut granted: HashMap<Id, Vec<Id>> = HashMap::new();
    for m in acts {
        if let Body::Grant { target, .. } = &m.body {
            granted.entry(whose(m)).or_default().push(*target);
        }
    }
    let mut may = HashSet::from([founder]);
    let mut next = vec![founder];
    while let Some(who) = next.pop() {
        next.extend(granted.remove(&who).unwrap_or_default().into_iter().filter(|target| may.insert(*target)));
    }
    may
}

/// Acts after all that they name; which of several such orders makes no difference.
fn in_order(acts: &[Arc<Message>]) -> Vec<Arc<Message>> {
    let all: HashMap<Id, &Arc<Message>> = acts.iter().map(|m| (m.id, m)).collect();
    let mut waits: HashMap<Id, usize> = HashMap::new();
    let mut followers: HashMap<Id, Vec<&Arc<Message>>> = HashMap::new();
    let mut ready = Vec::new();
    for m in all.values() {
        let heads = m.head.auth_heads.iter().filter(|h| all.contains_key(*h));
        let n = heads.inspect(|h| followers.entry(**h).or_default().push(m)).count();
        if n == 0 {
            ready.push(*m);
        } else {
            waits.insert(m.id, n);
        }
    }
    let mut out = Vec::with_capacity(all.len());
    while let Some(m) = ready.pop() {
        out.push(Arc::clone(m));
        for follower in followers.remove(&m.id).unwrap_or_default() {
            let n = waits.entry(follower.id).or_insert(1);
            *n -= 1;
            if *n == 0 {
                ready.push(follower);
            }
        }
    }
    out
}

/// Of these nodes, those in strongly connected components that lead to no other one (Tarjan, without recursion).
fn first_rings(nodes: &[usize], edges: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let mut state: HashMap<usize, (usize, usize, bool)> = HashMap::new();
    let (mut stack, mut next, mut out) = (Vec::new(), 0, Vec::new());
    let mut component: HashMap<usize, usize> = HashMap::new();
    let mut rings: Vec<Vec<usize>> = Vec::new();
    for start in nodes {
        if state.contains_key(start) {
            continue;
        }
        let mut work = vec![(*start, edges(*start), 0)];
        state.insert(*start, (next, next, true));
        stack.push(*start);
        next += 1;
        while let Some((node, to, at)) = work.last_mut() {
            if let Some(other) = to.get(*at).copied() {
                *at += 1;
                match state.get(&other).copied() {
                    None => {
                        state.insert(other, (next, next, true));
                        stack.push(other);
                        next += 1;
                        work.push((other, edges(other), 0));
                    }
                    Some((number, _, true)) => {
                        let low = state.entry(*node).or_default();
                        low.1 = low.1.min(number);
                    }
                    Some(_) => {}
                }
                continue;
            }
            let node = *node;
            work.pop();
            let (number, low, _) = state[&node];
            if let Some((parent, ..)) = work.last() {
                let above = state.entry(*parent).or_default();
                above.1 = above.1.min(low);
            }
            if number == low {
                let at = stack.iter().rposition(|n| *n == node).unwrap_or(0);
                let ring = stack.split_off(at);
                for n in &ring {
                    state.entry(*n).or_default().2 = false;
                    component.insert(*n, rings.len());
                }
                rings.push(ring);
            }
        }
    }
    for (i, ring) in rings.into_iter().enumerate() {
        if ring.iter().all(|n| edges(*n).iter().all(|to| component.get(to) == Some(&i))) {
            out.extend(ring);
        }
    }
    out
}
