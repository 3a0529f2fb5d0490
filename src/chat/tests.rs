use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::crypto::Rng;

/// A platform, its replica as all know it, and who writes.
struct Stage {
    base: Replica,
    authors: Vec<Author>,
    all: Vec<Arc<Message>>,
    now: u64,
}

impl Stage {
    /// A founder (0) and `n` others who have joined.
    fn new(n: u8) -> Self {
        let key = |i: u8| DeviceKey::new(&[i + 1; 32], &[i + 101; 32]);
        let mut founder = Author::new(key(0), None);
        let mut base = Replica::default();
        let genesis = founder.join(&mut base, 1000);
        let others = (1..=n).map(|i| Author::new(key(i), Some(genesis.platform)));
        let authors = [founder].into_iter().chain(others).collect();
        let mut stage = Self { base, authors, all: vec![genesis], now: 1000 };
        for i in 1..=usize::from(n) {
            let mut copy = stage.base.clone();
            let join = stage.authors[i].join(&mut copy, 1001);
            stage.take(join);
        }
        stage
    }

    fn id(&self, who: usize) -> Id {
        self.authors[who].key.identity
    }

    fn device(&self, who: usize) -> Id {
        self.authors[who].key.device
    }

    fn take(&mut self, message: Arc<Message>) {
        self.base.insert(u64::MAX >> 20, Arc::clone(&message));
        self.all.push(message);
    }

    /// Somebody writes who knows this much, and nobody hears of it yet.
    fn apart(&mut self, knows: &Replica, who: usize, kind: Kind, body: Body, refs: Vec<Id>) -> Arc<Message> {
        self.now += 1;
        self.authors[who].write(&mut knows.clone(), self.now, kind, &body, refs)
    }

    /// Somebody writes who knows all, and all hear of it.
    fn says(&mut self, who: usize, kind: Kind, body: Body) -> Arc<Message> {
        let knows = self.base.clone();
        let message = self.apart(&knows, who, kind, body, Vec::new());
        self.take(Arc::clone(&message));
        message
    }

    fn text(&mut self, who: usize) -> Id {
        self.says(who, Kind::Text, Body::Content(Some(b"hello".to_vec()))).id
    }

    fn grant(&mut self, who: usize, to: usize, role: Role) {
        let target = self.id(to);
        self.says(who, Kind::Grant, Body::Grant { target, role });
    }

    fn ban(&self, target: usize, last: u64) -> Ban {
        Ban { target: self.id(target), cut: vec![(self.device(target), last)], purge: false, reason: String::new() }
    }

    fn standing(&self, who: usize) -> (Role, bool) {
        let view = self.base.view(self.id(0));
        view.members.iter().find(|m| m.0 == self.id(who)).map(|m| (m.1, m.2)).unwrap()
    }

    fn sees(&self, viewer: usize) -> Vec<Id> {
        self.base.view(self.id(viewer)).entries.iter().map(|e| e.id).collect()
    }
}

/// All orders of a few things.
fn orders<T: Clone>(of: &[T]) -> Vec<Vec<T>> {
    if of.len() < 2 {
        return vec![of.to_vec()];
    }
    let mut out = Vec::new();
    for i in 0..of.len() {
        let mut rest = of.to_vec();
        let first = rest.remove(i);
        out.extend(orders(&rest).into_iter().map(|mut tail| {
            tail.insert(0, first.clone());
            tail
        }));
    }
    out
}

#[test]
fn who_remove_each_other_are_all_removed_in_every_ring_of_up_to_four() {
    let mut rings = 0;
    for k in 2..=4usize {
        let others: Vec<usize> = (2..=k).collect();
        for tail in orders(&others) {
            let ring: Vec<usize> = [1].into_iter().chain(tail).collect();
            for verbs in 0..1 << k {
                let mut stage = Stage::new(5);
                (1..=5).for_each(|i| stage.grant(0, i, Role::Powernode));
                let before = stage.base.clone();
                let acts: Vec<Arc<Message>> = (0..k)
                    .map(|i| {
                        let (who, whom) = (ring[i], ring[(i + 1) % k]);
                        let (kind, body) = if verbs >> i & 1 == 0 {
                            (Kind::Revoke, Body::Revoke { target: stage.id(whom) })
                        } else {
                            (Kind::Ban, Body::Ban(stage.ban(whom, 99)))
                        };
                        stage.apart(&before, who, kind, body, Vec::new())
                    })
                    .collect();
                let mut digests = Vec::new();
                for order in orders(&acts) {
                    let mut replica = before.clone();
                    for m in order {
                        replica.insert(u64::MAX >> 20, m);
                    }
                    let view = replica.view(stage.id(0));
                    digests.push(view.digest());
                    let role = |i: usize| view.members.iter().find(|m| m.0 == stage.id(i)).unwrap().1;
                    assert!(ring.iter().all(|i| role(*i) == Role::Member), "{ring:?} {verbs:b}");
                    assert_eq!(role(5), Role::Powernode, "a bystander");
                }
                assert!(digests.windows(2).all(|w| w[0] == w[1]));
                rings += 1;
            }
        }
    }
    assert_eq!(rings, 4 + 2 * 8 + 6 * 16);
}

#[test]
fn a_removal_voids_what_its_target_does_at_the_same_time_and_what_hangs_on_that() {
    let mut stage = Stage::new(4);
    (1..=2).for_each(|i| stage.grant(0, i, Role::Powernode));
    let before = stage.base.clone();
    // 1 removes 2, while 2 removes 3 and makes 4 a powernode, who makes 3 a moderator.
    let (two, three, four) = (stage.id(2), stage.id(3), stage.id(4));
    let removal = stage.apart(&before, 1, Kind::Revoke, Body::Revoke { target: two }, vec![]);
    let grant = stage.apart(&before, 2, Kind::Grant, Body::Grant { target: four, role: Role::Powernode }, vec![]);
    let mut knows = before.clone();
    knows.insert(u64::MAX >> 20, Arc::clone(&grant));
    let child = stage.apart(&knows, 4, Kind::Grant, Body::Grant { target: three, role: Role::Moderator }, vec![]);
    [grant, child].into_iter().for_each(|m| stage.take(m));
    assert_eq!((stage.standing(3).0, stage.standing(4).0), (Role::Moderator, Role::Powernode));
    stage.take(removal);
    assert_eq!([1, 2, 3, 4].map(|i| stage.standing(i).0), [Role::Powernode, Role::Member, Role::Member, Role::Member]);
}

#[test]
fn nobody_removes_who_is_above() {
    let mut stage = Stage::new(3);
    stage.grant(0, 1, Role::Powernode);
    stage.grant(1, 2, Role::Powernode);
    let before = stage.base.clone();
    let (one, two, founder) = (stage.id(1), stage.id(2), stage.id(0));
    let up = stage.apart(&before, 2, Kind::Revoke, Body::Revoke { target: one }, vec![]);
    let down = stage.apart(&before, 1, Kind::Revoke, Body::Revoke { target: two }, vec![]);
    let top = stage.apart(
        &before,
        1,
        Kind::Ban,
        Body::Ban(Ban { target: founder, cut: vec![], purge: true, reason: String::new() }),
        vec![],
    );
    [up, down, top].into_iter().for_each(|m| stage.take(m));
    assert_eq!(
        [0, 1, 2].map(|i| stage.standing(i)),
        [(Role::Founder, false), (Role::Powernode, false), (Role::Member, false)]
    );
    // Neither do members remove anybody.
    let two = stage.id(2);
    stage.says(3, Kind::Ban, Body::Ban(Ban { target: two, cut: vec![], purge: true, reason: String::new() }));
    assert!(!stage.standing(2).1);
}

/// What went wrong elsewhere when a branch that nobody had heard of came in late.
#[test]
fn late_branches_reset_nothing() {
    let mut stage = Stage::new(4);
    stage.grant(0, 1, Role::Powernode);
    stage.grant(1, 2, Role::Moderator);
    let old = stage.base.clone();
    let (one, two, three) = (stage.id(1), stage.id(2), stage.id(3));
    // Who granted goes; those whom he had made moderator stay (synapse#10866).
    stage.says(0, Kind::Revoke, Body::Revoke { target: one });
    assert_eq!((stage.standing(1).0, stage.standing(2).0), (Role::Member, Role::Moderator));
    // A late grant from before the removal does not bring the role back (synapse#1953).
    let late = stage.apart(&old, 1, Kind::Grant, Body::Grant { target: three, role: Role::Powernode }, vec![]);
    stage.take(late);
    assert_eq!(stage.standing(3).0, Role::Member);
    // Banned and unbanned at the same time: banned. Unbanned by who knew of it: not, whatever comes late (synapse#6520).
    let banned = stage.ban(3, 1);
    stage.says(0, Kind::Ban, Body::Ban(banned.clone()));
    assert!(stage.standing(3).1);
    let before = stage.base.clone();
    stage.says(0, Kind::Unban, Body::Unban { target: three });
    assert!(!stage.standing(3).1);
    let late = stage.apart(&old, 2, Kind::Text, Body::Content(Some(b"late".to_vec())), vec![]);
    stage.take(late);
    assert!(!stage.standing(3).1);
    let again = stage.apart(&before, 0, Kind::Ban, Body::Ban(banned), vec![]);
    stage.take(again);
    assert!(stage.standing(3).1, "a ban that did not know of the unban stands");
    // Who leaves and comes back is no moderator (element-web#26242).
    stage.says(2, Kind::Leave, Body::Leave);
    assert_eq!(stage.standing(2).0, Role::Member);
    stage.grant(0, 2, Role::Moderator);
    assert_eq!(stage.standing(2).0, Role::Moderator, "a new grant that knows of it counts");
    // A banned admin can be unbanned (synapse#15050), and has no role until it is granted.
    stage.says(0, Kind::Ban, Body::Ban(Ban { target: two, cut: vec![], purge: false, reason: String::new() }));
    stage.says(0, Kind::Unban, Body::Unban { target: two });
    assert_eq!(stage.standing(2), (Role::Member, false));
}

#[test]
fn a_crowd_of_strangers_keeps_nobody_from_naming_what_counts() {
    let mut stage = Stage::new(2);
    let before = stage.base.clone();
    stage.grant(0, 1, Role::Powernode);
    for i in 0..40 {
        let mut stranger = Author::new(DeviceKey::new(&[77; 32], &[150 + i; 32]), Some(stage.all[0].platform));
        let mut knows = before.clone();
        let join = stranger.join(&mut knows, 9000);
        let target = stranger.key.identity;
        let tries =
            stranger.write(&mut knows, 9001, Kind::Grant, &Body::Grant { target, role: Role::Powernode }, vec![]);
        [join, tries].into_iter().for_each(|m| stage.take(m));
    }
    stage.grant(1, 2, Role::Moderator);
    assert_eq!(stage.standing(2).0, Role::Moderator);
}

#[test]
fn a_checkpoint_is_final() {
    let mut stage = Stage::new(3);
    stage.grant(0, 1, Role::Powernode);
    let before = stage.base.clone();
    let three = stage.id(3);
    stage.says(0, Kind::Checkpoint, Body::Checkpoint);
    let late = stage.apart(&before, 1, Kind::Grant, Body::Grant { target: three, role: Role::Moderator }, vec![]);
    stage.take(late);
    assert_eq!(stage.standing(3).0, Role::Member);
    stage.grant(1, 3, Role::Moderator);
    assert_eq!(stage.standing(3).0, Role::Moderator, "what knows the checkpoint counts");
}

#[test]
fn a_ban_cuts_by_number_and_not_by_clock() {
    let mut stage = Stage::new(2);
    let (first, second) = (stage.text(1), stage.text(1));
    let before = stage.base.clone();
    // The join is number 1, the first text number 2.
    let ban = stage.ban(1, 2);
    stage.says(0, Kind::Ban, Body::Ban(ban));
    assert_eq!(stage.sees(2), [first]);
    // Backdated, or written by who has not heard of it: out.
    stage.now = 1;
    let late = stage.apart(&before, 1, Kind::Text, Body::Content(Some(b"x".to_vec())), vec![]);
    stage.take(Arc::clone(&late));
    assert_eq!(stage.sees(2), [first]);
    stage.now = 9000;
    let one = stage.id(1);
    stage.says(0, Kind::Unban, Body::Unban { target: one });
    assert_eq!(stage.sees(2), [first], "what was said while banned stays out");
    let back = stage.text(1);
    assert_eq!(stage.sees(2), [first, back]);
    let purge = Ban { purge: true, ..stage.ban(1, 99) };
    stage.says(0, Kind::Ban, Body::Ban(purge));
    assert!(stage.sees(2).is_empty() && !stage.sees(1).contains(&second));
}

#[test]
fn a_shadow_ban_is_seen_by_all_but_its_target() {
    let mut stage = Stage::new(2);
    let first = stage.text(1);
    let ban = stage.ban(1, 2);
    stage.says(0, Kind::ShadowBan, Body::ShadowBan(ban));
    let second = stage.text(1);
    assert_eq!((stage.sees(1), stage.sees(2), stage.sees(0)), (vec![first, second], vec![first], vec![first]));
    let one = stage.id(1);
    stage.says(0, Kind::Unshadow, Body::Unshadow { target: one });
    let third = stage.text(1);
    assert_eq!(stage.sees(2), [first, third]);
}

#[test]
fn tombstones_work_before_their_targets_arrive_and_on_those_beneath_alone() {
    let mut stage = Stage::new(3);
    stage.grant(0, 1, Role::Moderator);
    let knows = stage.base.clone();
    let text = stage.apart(&knows, 2, Kind::Text, Body::Content(Some(b"bad".to_vec())), vec![]);
    let kill = |id: Id| Body::Tombstone { targets: vec![id], reason: "spam".to_owned() };
    stage.says(1, Kind::Tombstone, kill(text.id));
    stage.take(Arc::clone(&text));
    assert_eq!(stage.base.view(stage.id(0)).entries[0].shown, Shown::Purged);
    let of_founder = stage.text(0);
    stage.says(1, Kind::Tombstone, kill(of_founder));
    stage.says(3, Kind::Tombstone, kill(of_founder));
    let view = stage.base.view(stage.id(0));
    let founders = view.entries.iter().find(|e| e.id == of_founder).unwrap();
    assert_eq!(founders.shown, Shown::Text(b"hello".to_vec()));
    // One's own goes when one says so; nobody edits what is another's.
    let knows = stage.base.clone();
    let edit = stage.apart(&knows, 3, Kind::Edit, Body::Content(Some(b"forged".to_vec())), vec![of_founder]);
    let retract = stage.apart(&knows, 0, Kind::Retract, Body::Content(Some(Vec::new())), vec![of_founder]);
    stage.take(edit);
    assert_eq!(stage.base.view(stage.id(1)).entries.iter().find(|e| e.id == of_founder).unwrap().edit, None);
    stage.take(retract);
    assert_eq!(stage.base.view(stage.id(1)).entries.iter().find(|e| e.id == of_founder).unwrap().shown, Shown::Purged);
}

#[test]
fn who_says_two_things_under_one_number_loses_authority_and_is_marked() {
    let mut stage = Stage::new(2);
    stage.grant(0, 1, Role::Powernode);
    let before = stage.base.clone();
    // The same device twice, each with its own idea of what number comes next.
    let key = || DeviceKey::new(&[2; 32], &[102; 32]);
    let two = stage.id(2);
    let mut halves = [0, 1].map(|_| Author::new(key(), Some(stage.all[0].platform)));
    let mut said = Vec::new();
    for (i, half) in halves.iter_mut().enumerate() {
        let mut knows = before.clone();
        said.push(half.join(&mut knows, 1001));
        let text = [b'a' + i as u8];
        said.push(half.write(&mut knows, 5000 + i as u64, Kind::Text, &Body::Content(Some(text.to_vec())), vec![]));
    }
    let mut knows = before.clone();
    for m in &said {
        knows.insert(u64::MAX >> 20, Arc::clone(m));
    }
    let grant =
        halves[0].write(&mut knows, 6000, Kind::Grant, &Body::Grant { target: two, role: Role::Powernode }, vec![]);
    said.into_iter().for_each(|m| stage.take(m));
    stage.take(grant);
    let view = stage.base.view(stage.id(0));
    assert!(view.entries.iter().filter(|e| e.forked).count() == 2, "both are shown, and marked");
    assert_eq!(stage.standing(2).0, Role::Member);
}

#[test]
fn clocks_that_run_backwards_are_not_shown_and_those_far_ahead_wait() {
    let mut stage = Stage::new(1);
    let key = DeviceKey::new(&[2; 32], &[102; 32]);
    let first = stage.text(1);
    let backwards = Draft {
        platform: Some(stage.all[0].platform),
        head: Head {
            seq: 3,
            prev: Some(first),
            hlc: Hlc::from_ms(1),
            auth_heads: stage.base.auth_heads(),
            refs: vec![],
            channel: [0; 16],
            kind: Kind::Text,
        },
        payload: b"earlier".to_vec(),
    };
    let mut early = backwards.clone();
    early.head.hlc = Hlc::from_ms(10_000_000);
    stage.take(Arc::new(Message::decode(&key.sign(backwards)).unwrap()));
    assert_eq!(stage.sees(0), [first]);
    let early = Arc::new(Message::decode(&key.sign(early)).unwrap());
    assert_eq!(stage.base.insert(9_000_000, Arc::clone(&early)), Taken::Early);
    assert_eq!(stage.base.insert(9_950_000, early), Taken::New);
}

#[test]
fn everything_has_one_form_and_one_author() {
    let stage = Stage::new(1);
    let key = DeviceKey::new(&[2; 32], &[102; 32]);
    let draft = Draft {
        platform: Some(stage.all[0].platform),
        head: Head {
            seq: 2,
            prev: Some(stage.all[1].id),
            hlc: Hlc::from_ms(5000),
            auth_heads: stage.base.auth_heads(),
            refs: vec![],
            channel: [7; 16],
            kind: Kind::Text,
        },
        payload: b"text".to_vec(),
    };
    let bytes = key.sign(draft.clone());
    let message = Message::decode(&bytes).unwrap();
    assert_eq!((message.verify(), message.device), (Ok(()), key.device));
    // One bit anywhere: refused by its form, its hashes or its signature.
    for at in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[at / 8] ^= 1 << (at % 8);
        let accepted = Message::decode(&bad).is_ok_and(|m| m.verify().is_ok());
        assert!(!accepted, "bit {at}");
    }
    // A field that nobody knows, a length in more bytes than it needs.
    assert!(Message::decode(&[&bytes[..], &[0x78, 1]].concat()).is_err());
    let mut long = bytes.clone();
    long.splice(1..2, [bytes[1] & 0x7f | 0x80, 0x80 | bytes[1] >> 7, 0]);
    assert!(Message::decode(&long).is_err());
    // Somebody else's device under one's own name.
    let mut stolen = DeviceKey::new(&[9; 32], &[102; 32]);
    stolen.join = DeviceKey::new(&[2; 32], &[55; 32]).join;
    let head = Head { seq: 1, prev: None, kind: Kind::Join, ..draft.head };
    let join = Draft { head, payload: stolen.join.clone(), ..draft };
    assert!(Message::decode(&stolen.sign(join)).is_err());
}

#[test]
fn replicas_converge() {
    for seed in 0..6 {
        let report = sim::run(&sim::Options { replicas: 12, operations: 600, seed, acts: 0.25 });
        assert_eq!(report.differing, 0, "{report:?}");
        assert!(report.void > 10 && report.shown > 100 && report.purged > 0, "{report:?}");
    }
    let options = sim::Options { replicas: 5, operations: 100, seed: 7, acts: 0.3 };
    assert_eq!(sim::run(&options).digest, sim::run(&options).digest, "a seed is a run");
}

/// Signatures on which libraries disagree (Chalkias, Garillot, Nikolaenko: "Taming the many EdDSAs", 2020, table 5), made anew: of
/// small and mixed order, with S beyond the group's order, in other forms than their own.
#[test]
fn checking_one_by_one_and_in_batches_agree_on_every_odd_signature() {
    use curve25519_dalek::{
        constants::{ED25519_BASEPOINT_POINT as B, EIGHT_TORSION},
        edwards::EdwardsPoint,
        scalar::Scalar,
    };
    use sha2::{Digest as _, Sha512};

    let stage = Stage::new(1);
    let key = DeviceKey::new(&[2; 32], &[102; 32]);
    let draft = |n: u64| Draft {
        platform: Some(stage.all[0].platform),
        head: Head {
            seq: 2 + n,
            prev: Some(stage.all[1].id),
            hlc: Hlc::from_ms(5000),
            auth_heads: stage.base.auth_heads(),
            refs: vec![],
            channel: [0; 16],
            kind: Kind::Text,
        },
        payload: b"text".to_vec(),
    };
    let honest: Vec<Message> = (0..6).map(|n| Message::decode(&key.sign(draft(n))).unwrap()).collect();
    // A message under another device's key, signed with these points and this secret.
    let (a, r) = (Scalar::from(1234567u64), Scalar::from(7654321u64));
    let make = |public: [u8; 32], nonce: [u8; 32], small: bool, beyond: bool| {
        let mut m = honest[0].clone();
        m.device = Id(public);
        let text = [&b"aegis/sig/1"[..], &m.id.0].concat();
        let hash: [u8; 64] =
            Sha512::new().chain_update(nonce).chain_update(public).chain_update(&text).finalize().into();
        let k = Scalar::from_bytes_mod_order_wide(&hash);
        let s = if small { k * a } else { r + k * a };
        let mut s = s.to_bytes();
        if beyond {
            // S + L: the same residue.
            let order = (Scalar::ZERO - Scalar::ONE).to_bytes();
            let mut carry = 1u16;
            for (byte, other) in s.iter_mut().zip(order) {
                carry += u16::from(*byte) + u16::from(other);
                *byte = carry as u8;
                carry >>= 8;
            }
        }
        m.signature[..32].copy_from_slice(&nonce);
        m.signature[32..].copy_from_slice(&s);
        m
    };
    let (public, nonce) = (a * B, r * B);
    let bytes = |p: EdwardsPoint| p.compress().0;
    let torsion = EIGHT_TORSION;
    // The neutral element as y = p + 1, and as it should be; y = p: of order 4.
    let mut other_form = [0xff; 32];
    (other_form[0], other_form[31]) = (0xee, 0x7f);
    let identity = bytes(EdwardsPoint::default());
    let mut cases = vec![
        ("an honest one", make(bytes(public), bytes(nonce), false, false), true),
        ("A of small order", make(bytes(torsion[1]), bytes(nonce), false, false), false),
        ("A and R of small order", make(bytes(torsion[1]), bytes(torsion[3]), true, false), false),
        ("A the neutral element", make(identity, bytes(nonce), false, false), false),
        ("R of small order", make(bytes(public), bytes(torsion[1]), true, false), true),
        ("R the neutral element", make(bytes(public), identity, true, false), true),
        ("A of mixed order", make(bytes(public + torsion[1]), bytes(nonce), false, false), true),
        ("R of mixed order", make(bytes(public), bytes(nonce + torsion[5]), false, false), true),
        ("A and R of mixed order", make(bytes(public + torsion[1]), bytes(nonce + torsion[7]), false, false), true),
        ("S beyond the order", make(bytes(public), bytes(nonce), false, true), false),
        ("R in another form", make(bytes(public), other_form, true, false), true),
        ("A in another form", make(other_form, bytes(nonce), false, false), false),
    ];
    let mut wrong = make(bytes(public), bytes(nonce), false, false);
    wrong.signature[40] ^= 1;
    cases.push(("a wrong one", wrong, false));
    let mut rng = crate::crypto::Rng::from_seed([5; 32]);
    for (what, message, expected) in &cases {
        assert_eq!(message.verify().is_ok(), *expected, "{what}, alone");
        // Batches draw numbers: whatever they are.
        for _ in 0..8 {
            assert_eq!(verify_all(&[message], &mut rng), [*expected], "{what}, in a batch of its own");
            assert_eq!(verify_all(&[message, message], &mut rng), [*expected; 2], "{what}, twice");
            let mut among: Vec<&Message> = honest.iter().collect();
            among.insert(3, message);
            let mut all = vec![true; 7];
            all[3] = *expected;
            assert_eq!(verify_all(&among, &mut rng), all, "{what}, among honest ones");
        }
    }
    let all: Vec<&Message> = cases.iter().map(|(_, m, _)| m).collect();
    let expected: Vec<bool> = cases.iter().map(|c| c.2).collect();
    assert_eq!(verify_all(&all, &mut rng), expected, "all together");
}

#[test]
fn who_takes_part_in_a_private_platform_was_let_in_by_who_does() {
    let key = |i: u8| DeviceKey::new(&[i + 1; 32], &[i + 101; 32]);
    let mut all = Replica::default();
    let mut authors: Vec<Author> = vec![Author::new(key(0), None)];
    let founder = Body::Join { identity: authors[0].key.identity, payload: authors[0].key.founds_private() };
    let genesis = authors[0].write(&mut all, 1000, Kind::Genesis, &founder, Vec::new());
    assert!(genesis.founds_private());
    for i in 1..6 {
        let mut author = Author::new(key(i), Some(genesis.platform));
        author.join(&mut all, 1001);
        authors.push(author);
    }
    let who: Vec<Id> = authors.iter().map(|a| a.key.identity).collect();
    let seal = |whom: Id| {
        let admits = vec![whom];
        Body::Seal(Seal { admits, secrets: vec![[7; 16]], boxes: vec![(whom, vec![0; 80])], names: false })
    };
    // 0 lets 1 in, 1 lets 2 in; 4, a stranger, lets himself and 5 in; 2 is banned and then lets 3 in.
    authors[1].write(&mut all, 1002, Kind::Seal, &seal(who[2]), Vec::new());
    authors[0].write(&mut all, 1003, Kind::Seal, &seal(who[1]), Vec::new());
    authors[4].write(&mut all, 1004, Kind::Seal, &seal(who[4]), Vec::new());
    authors[4].write(&mut all, 1005, Kind::Seal, &seal(who[5]), Vec::new());
    let text = |n: &str| Body::Content(Some(n.as_bytes().to_vec()));
    for (i, author) in authors.iter_mut().enumerate() {
        author.write(&mut all, 1006, Kind::Text, &text(&format!("from {i}")), Vec::new());
    }
    let seen = |replica: &Replica| {
        let view = replica.view(who[0]);
        let members: Vec<usize> =
            view.members.iter().map(|(id, ..)| who.iter().position(|w| w == id).unwrap()).collect();
        (view.entries.len(), members.into_iter().collect::<BTreeSet<_>>(), view.digest())
    };
    let (shown, members, _) = seen(&all);
    assert_eq!((shown, members), (3, BTreeSet::from([0, 1, 2])));
    let cut = vec![(authors[2].key.device, 2)];
    let ban = Body::Ban(Ban { target: who[2], cut, purge: true, reason: String::new() });
    authors[0].write(&mut all, 1007, Kind::Ban, &ban, Vec::new());
    authors[2].write(&mut all, 1008, Kind::Seal, &seal(who[3]), Vec::new());
    let (shown, members, _) = seen(&all);
    assert_eq!((shown, members), (2, BTreeSet::from([0, 1, 2])), "banned, but not forgotten; and nobody follows");
    // In any order of arrival.
    let mut rng = Rng::from_seed([3; 32]);
    let messages: Vec<Arc<Message>> = all.messages().cloned().collect();
    for _ in 0..50 {
        let mut left = messages.clone();
        let mut other = Replica::new(genesis.platform);
        while !left.is_empty() {
            let at = rng.below(left.len() as u64) as usize;
            other.insert(2000, left.swap_remove(at));
        }
        assert_eq!(seen(&other), seen(&all));
    }
    // A JOIN makes nothing private; and what is sealed opens in its own place alone.
    let join = Draft {
        platform: Some(genesis.platform),
        head: Head::after(None, Hlc::from_ms(1), vec![genesis.id], Kind::Join),
        payload: key(9).founds_private(),
    };
    assert!(Message::decode(&key(9).sign(join)).is_err());
    let place = sealed::Place { platform: genesis.id, device: who[1], kind: Kind::Text, channel: [1; 16] };
    let secret = [5; 32];
    let payload = sealed::seal(&secret, &place, b"a word", &mut rng);
    assert_eq!(sealed::secret_of(&payload), Some(sealed::name_of(&secret)));
    assert_eq!(sealed::open(&secret, &place, &payload).unwrap(), b"a word");
    assert_eq!(payload.len(), sealed::seal(&secret, &place, b"another word", &mut rng).len(), "lengths are rounded up");
    assert!(sealed::open(&secret, &sealed::Place { device: who[2], ..place }, &payload).is_none());
    assert!(sealed::open(&secret, &sealed::Place { kind: Kind::Edit, ..place }, &payload).is_none());
    assert!(sealed::open(&[6; 32], &place, &payload).is_none());
}
