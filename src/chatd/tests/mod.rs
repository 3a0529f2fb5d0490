//! Nodes that talk, without sockets: frames go from one hub to the other.

mod files;
mod greedy;
mod linking;
mod private;
mod relay;
mod signals;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    engine::Engine,
    hub::{Hub, Input},
    keys::Keys,
    links::{LinkId, Output},
    outbox::Load,
    request::{Answer, Entry, Happened, Request, State},
    store::Store,
};
use crate::{
    chat::{Replica, Shown, View},
    crypto::Rng,
};

const PASSWORD: &str = "correct horse";

/// Nodes, and the frames between them.
struct Net {
    dir: PathBuf,
    hubs: Vec<Hub>,
    now_ms: u64,
    /// Who is at the other end of each link.
    ends: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    next: LinkId,
    under_way: BTreeMap<(usize, LinkId), Vec<Vec<u8>>>,
}

impl Net {
    fn new(nodes: usize) -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("aegisray-chatd-{}-{n}", std::process::id()));
        let mut net = Self {
            dir,
            hubs: Vec::new(),
            now_ms: 1_700_000_000_000,
            ends: BTreeMap::new(),
            next: 0,
            under_way: BTreeMap::new(),
        };
        for i in 0..nodes {
            std::fs::create_dir_all(net.dir.join(i.to_string())).unwrap();
            let mut hub = net.open(i);
            let new = Request::IdentityNew { password: PASSWORD.to_owned(), words: None };
            assert!(matches!(hub.request(net.now_ms, new), Answer::Identity { .. }));
            net.hubs.push(hub);
        }
        net
    }

    fn open(&self, i: usize) -> Hub {
        let dir = self.dir.join(i.to_string());
        let store = Store::open(&dir.join("chat.db")).unwrap();
        let keys = Keys::open(&dir.join("identity.json")).unwrap();
        Hub::new(Engine::new(store, keys, None, Rng::from_seed([i as u8 + 1; 32])).unwrap(), None)
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.next += 2;
        let (at_a, at_b) = (self.next, self.next + 1);
        self.ends.insert((a, at_a), (b, at_b));
        self.ends.insert((b, at_b), (a, at_a));
        for (who, link, other, dialed) in [(a, at_a, b, true), (b, at_b, a, false)] {
            let name = format!("node {other}");
            self.feed(who, vec![Input::Connected { link, source: name.clone(), name, dialed, load: Load::default() }]);
        }
        self.settle();
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        let all: Vec<_> = self.ends.iter().filter(|((x, _), (y, _))| [(a, b), (b, a)].contains(&(*x, *y))).collect();
        let all: Vec<_> = all.into_iter().map(|(k, _)| *k).collect();
        for (who, link) in all {
            self.ends.remove(&(who, link));
            self.under_way.remove(&(who, link));
            self.feed(who, vec![Input::Disconnected(link)]);
        }
    }

    fn feed(&mut self, who: usize, inputs: Vec<Input>) -> bool {
        let outputs = self.hubs[who].handle(self.now_ms, inputs).unwrap();
        self.carry(who, outputs)
    }

    fn carry(&mut self, who: usize, outputs: Vec<Output>) -> bool {
        let busy = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Send(link, mut frame) => {
                    if let Some(end) = self.ends.get(&(who, link)) {
                        self.under_way.entry(*end).or_default().push(std::mem::take(&mut frame.bytes));
                    }
                }
                Output::Close(_, why) => panic!("{why}"),
            }
        }
        busy
    }

    /// Until there is nothing more to say.
    fn settle(&mut self) {
        let all = |net: &mut Self| (0..net.hubs.len()).fold(false, |busy, who| net.feed(who, Vec::new()) | busy);
        while all(self) || !self.under_way.is_empty() {
            while let Some(((to, link), frames)) = self.under_way.pop_first() {
                self.feed(to, frames.into_iter().map(|bytes| Input::Frame { link, bytes }).collect());
            }
        }
    }

    fn ask(&mut self, who: usize, request: Request) -> Answer {
        self.now_ms += 10;
        let answer = self.hubs[who].request(self.now_ms, request);
        self.settle();
        answer
    }

    fn done(&mut self, who: usize, request: Request) -> String {
        match self.ask(who, request.clone()) {
            Answer::Id { id } | Answer::Joining { platform: id } => id,
            Answer::Done => String::new(),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    fn refused(&mut self, who: usize, request: Request) -> String {
        match self.ask(who, request.clone()) {
            Answer::Error { message } => message,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Founds a platform at the first node; all others join.
    fn platform(&mut self) -> String {
        let id = self.done(0, Request::Found { name: "Ducks".into(), nick: "ann".into(), private: false });
        for i in 1..self.hubs.len() {
            let nick = ["ann", "bob", "cid", "dot", "eve"][i].to_owned();
            self.done(i, Request::Join { platform: "ducks".into(), nick });
        }
        id
    }

    /// A message; returns its id.
    fn send(&mut self, who: usize, platform: &str, text: &str) -> String {
        self.done(who, message(platform, text))
    }

    fn say(&mut self, who: usize, text: &str) -> String {
        self.send(who, "ducks", text)
    }

    fn read_at(&mut self, who: usize, platform: &str) -> Vec<Entry> {
        let (platform, channel, limit) = (platform.to_owned(), "general".to_owned(), Some(500));
        match self.ask(who, Request::Read { platform, channel, before: None, after: None, limit }) {
            Answer::Messages { messages, .. } => messages,
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, who: usize) -> Vec<Entry> {
        self.read_at(who, "ducks")
    }

    /// What a node shows of a platform.
    fn seen(&mut self, who: usize, platform: &str) -> Vec<String> {
        let text = |e: Entry| if e.state == State::Text { e.text } else { format!("{:?}", e.state) };
        self.read_at(who, platform).into_iter().map(text).collect()
    }

    fn texts(&mut self, who: usize) -> Vec<String> {
        self.seen(who, "ducks")
    }

    /// Files of a node in which these bytes are.
    fn grep(&self, who: usize, needle: &str) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.join(who.to_string())).unwrap().map(|f| f.unwrap().path());
        let needle = needle.as_bytes();
        files.filter(|f| std::fs::read(f).unwrap().windows(needle.len()).any(|w| w == needle)).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn ducks() -> String {
    "ducks".into()
}

fn message(platform: &str, text: &str) -> Request {
    let (platform, channel, text) = (platform.to_owned(), "#general".to_owned(), text.to_owned());
    Request::Send { platform, channel, text, reply_to: None, files: Vec::new() }
}

#[test]
fn who_has_a_message_by_another_way_confirms_it_when_it_meets_its_author() {
    for (from, to) in [(0, 2), (2, 0)] {
        let mut net = Net::new(3);
        net.connect(0, 1);
        net.connect(1, 2);
        net.platform();
        net.say(0, "are there any ducks?");
        assert_eq!((net.read(0)[0].copies, net.texts(2).len()), (1, 1));
        net.connect(from, to);
        assert_eq!(net.read(0)[0].copies, 2);
        net.disconnect(0, 2);
        net.connect(from, to);
        assert_eq!(net.read(0)[0].copies, 2);
    }
}

#[test]
fn people_talk() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(1, 2);
    let id = net.platform();
    let first = net.say(0, "are there any ducks?");
    net.say(2, "plenty, @ann");
    for who in 0..3 {
        assert_eq!(net.texts(who), ["are there any ducks?", "plenty, @ann"], "{who}");
    }
    let unread = |net: &mut Net, who| match net.ask(who, Request::Platforms) {
        Answer::Platforms { platforms } => (platforms[0].channels[0].unread, platforms[0].channels[0].mentions),
        other => panic!("{other:?}"),
    };
    assert_eq!((unread(&mut net, 0), unread(&mut net, 1)), ((1, 1), (2, 0)));
    let last = net.read(1)[1].id.clone();
    net.done(1, Request::Mark { platform: ducks(), channel: "general".into(), message: last.clone() });
    assert_eq!(unread(&mut net, 1), (0, 0));

    net.done(1, Request::React { platform: ducks(), message: last[..12].into(), reaction: "🦆".into() });
    net.done(2, Request::Edit { platform: ducks(), message: last.clone(), text: "hundreds, @ann".into() });
    let reply = Request::Send {
        platform: id,
        channel: "general".into(),
        text: "where?".into(),
        reply_to: Some(last.clone()),
        files: Vec::new(),
    };
    net.done(0, reply);
    assert!(
        net.refused(1, Request::Edit { platform: ducks(), message: last.clone(), text: "x".into() })
            .contains("no message of yours")
    );
    for who in 0..3 {
        let seen = net.read(who);
        assert_eq!((seen[1].text.as_str(), seen[1].edited), ("hundreds, @ann", true));
        assert_eq!(
            (seen[1].reactions[0].what.as_str(), &seen[1].reactions[0].who[..]),
            ("🦆", &["bob".to_owned()][..])
        );
        assert_eq!(seen[2].reply_to.as_ref(), Some(&last));
    }
    // The author sees how many have it.
    assert_eq!(net.read(0)[0].copies, 1);
    let found = |net: &mut Net, words: &str| match net
        .ask(2, Request::Search { platform: ducks(), words: words.into(), limit: None })
    {
        Answer::Messages { messages, .. } => messages.into_iter().map(|m| m.text).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&mut net, "duck"), ["are there any ducks?"]);
    assert_eq!(found(&mut net, "hundreds"), ["hundreds, @ann"]);
    assert!(found(&mut net, "plenty").is_empty(), "what was edited away");
    // Events tell the same.
    let Answer::Events { events, .. } = net.ask(1, Request::Events { after: 0 }) else { panic!() };
    assert!(events.iter().any(|e| matches!(e, Happened::Message { entry } if entry.text == "hundreds, @ann")));
    net.done(0, Request::Retract { platform: ducks(), message: first });
    for who in 0..3 {
        assert_eq!(net.texts(who)[0], "Purged");
        assert_eq!(net.grep(who, "are there any"), Vec::<PathBuf>::new());
    }
}

#[test]
fn who_was_away_gets_what_is_missing() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(2, 1);
    net.platform();
    net.disconnect(0, 1);
    for i in 0..700 {
        net.say(0, &format!("left {i}"));
        if i % 7 == 0 {
            net.say(2, &format!("right {i}"));
        }
    }
    assert_eq!((net.texts(0).len(), net.texts(1).len()), (500, 100));
    // Both directions, also when the other side dials; and a restart on the way.
    net.hubs[0] = {
        let hub = net.open(0);
        net.hubs.push(hub);
        net.hubs.swap_remove(0)
    };
    net.done(0, Request::Unlock { password: PASSWORD.into() });
    net.connect(1, 0);
    let items = |net: &Net, who: usize| {
        net.hubs[who]
            .engine
            .platforms
            .values()
            .map(|p| net.hubs[who].engine.store.count(p.place.n).unwrap())
            .sum::<usize>()
    };
    assert_eq!((items(&net, 0), items(&net, 1)), (items(&net, 2), items(&net, 2)));
    assert_eq!(net.read(0), net.read(0));
    assert_eq!(net.texts(0), net.texts(2));
    // One's own numbers go on after a restart.
    net.say(0, "back");
    assert_eq!(net.texts(2).last().unwrap(), "back");
    assert!(net.read(2).iter().all(|e| !e.forked));
}

#[test]
fn moderation_is_what_it_is_called() {
    let mut net = Net::new(4);
    net.connect(0, 1);
    net.connect(1, 2);
    net.connect(1, 3);
    let id = net.platform();
    let secret = net.say(2, "quicksilver is poisonous");
    net.say(2, "cid says hello");
    net.say(3, "and dot");
    // A tombstone: bytes go everywhere.
    let stone =
        |m: &str| Request::Tombstone { platform: ducks(), messages: vec![m.to_owned()], reason: "danger".into() };
    assert!(net.refused(1, stone(&secret)).contains("takes a Moderator"));
    assert!(!net.grep(2, "quicksilver").is_empty());
    net.done(0, Request::Grant { platform: ducks(), who: "bob".into(), role: super::request::Role::Moderator });
    net.done(1, stone(&secret));
    for who in 0..4 {
        assert_eq!(net.texts(who), ["Purged", "cid says hello", "and dot"], "{who}");
        assert_eq!(net.grep(who, "quicksilver"), Vec::<PathBuf>::new(), "{who}");
    }
    // What edits or names what is purged goes with it, whichever comes first.
    let text = net.say(2, "harmless");
    net.done(2, Request::Edit { platform: ducks(), message: text.clone(), text: "mercury fulminate".into() });
    net.done(3, Request::React { platform: ducks(), message: text.clone(), reaction: "kaboom".into() });
    assert!(!net.grep(0, "fulminate").is_empty() && !net.grep(0, "kaboom").is_empty());
    net.disconnect(1, 3);
    net.done(1, stone(&text));
    net.done(3, Request::React { platform: ducks(), message: text.clone(), reaction: "badaboom".into() });
    net.connect(1, 3);
    for who in 0..4 {
        assert_eq!(net.texts(who).last().unwrap(), "Purged", "{who}");
        for words in ["fulminate", "kaboom", "badaboom"] {
            assert_eq!(net.grep(who, words), Vec::<PathBuf>::new(), "{who}: {words}");
        }
    }
    let kept = net.say(2, "taken back later");
    net.done(2, Request::Edit { platform: ducks(), message: kept.clone(), text: "nitroglycerin".into() });
    net.done(2, Request::Retract { platform: ducks(), message: kept });
    assert!((0..4).all(|who| net.grep(who, "nitroglycerin").is_empty()));
    net.say(3, "and dot");
    // A shadow ban: the target sees its own messages, and nobody else does.
    net.done(1, Request::ShadowBan { platform: ducks(), who: "@dot".into(), reason: "noise".into() });
    net.say(3, "can you hear me?");
    assert_eq!(net.texts(3).last().unwrap(), "can you hear me?");
    for who in 0..3 {
        assert_eq!(net.texts(who).last().unwrap(), "and dot");
    }
    net.done(1, Request::Unshadow { platform: ducks(), who: "dot".into() });
    net.say(3, "and now?");
    assert_eq!(net.texts(0).last().unwrap(), "and now?", "what knows of the end counts");
    assert!(!net.texts(0).contains(&"can you hear me?".to_owned()));
    // A ban with purge: what was kept by the target itself is deleted, and it does not come back.
    net.done(1, Request::Ban { platform: ducks(), who: "cid".into(), reason: "spam".into(), purge: true });
    for who in [0, 1, 3] {
        assert!(net.texts(who).iter().all(|t| !t.contains("cid says")), "{who}");
        assert_eq!(net.grep(who, "cid says"), Vec::<PathBuf>::new(), "{who}");
    }
    assert_eq!(net.grep(2, "and dot"), Vec::<PathBuf>::new(), "its own copy of the platform");
    let file = std::fs::read_to_string(net.dir.join("2/identity.json")).unwrap();
    assert!(file.split("\"BannedFrom\"").nth(1).is_some_and(|rest| rest.contains(&id)), "{file}");
    let send = || message("ducks", "hi");
    assert!(net.refused(2, send()).contains("you are banned from Ducks"));
    let join = || Request::Join { platform: "Ducks".into(), nick: "cid".into() };
    assert!(net.refused(2, join()).contains("you are banned"));
    let Answer::Audit { acts } = net.ask(0, Request::Audit { platform: ducks() }) else { panic!() };
    assert!(acts.iter().any(|a| a.act == "BAN with purge" && a.target == "cid" && a.reason == "spam" && a.good));
    // Until it is lifted.
    net.done(0, Request::Unban { platform: ducks(), who: "cid".into() });
    assert!(!std::fs::read_to_string(net.dir.join("2/identity.json")).unwrap().contains(&id));
    net.done(2, join());
    net.done(2, send());
    assert_eq!(net.texts(0).last().unwrap(), "hi");
    assert_eq!(net.texts(2), net.texts(0));
    // Whoever goes and comes back goes on with their numbers, though all else was deleted.
    net.done(2, Request::Leave { platform: ducks() });
    net.done(2, join());
    net.say(2, "there and back");
    assert_eq!(net.texts(0).last().unwrap(), "there and back");
    assert!((0..4).all(|who| net.read(who).iter().all(|e| !e.forked)));
}

/// What a node shows is what the pure function of its messages says, for everybody who looks.
#[test]
fn the_store_shows_what_the_core_says() {
    for seed in 0..6 {
        let mut net = Net::new(4);
        let others = |a: usize| (0..4).filter(move |b| *b != a).map(move |b| (a.min(b), a.max(b)));
        let all: Vec<(usize, usize)> = (0..4).flat_map(|a| others(a).filter(move |(x, _)| *x == a)).collect();
        for (a, b) in &all {
            net.connect(*a, *b);
        }
        net.platform();
        let mut rng = Rng::from_seed([seed + 100; 32]);
        let names = ["ann", "bob", "cid", "dot"];
        let mut cut = None;
        let mut refused = 0;
        for step in 0..160 {
            if step % 20 == 10 {
                let a = rng.below(4) as usize;
                others(a).for_each(|(a, b)| net.disconnect(a, b));
                cut = Some(a);
            } else if step % 20 == 0
                && let Some(a) = cut.take()
            {
                others(a).for_each(|(a, b)| net.connect(a, b));
            }
            let who = rng.below(4) as usize;
            let target = names[rng.below(4) as usize].to_owned();
            let platform = ducks();
            let seen = match net.hubs[who].request(
                net.now_ms,
                Request::Read { platform: ducks(), channel: "general".into(), before: None, after: None, limit: None },
            ) {
                Answer::Messages { messages, .. } => messages,
                _ => Vec::new(),
            };
            let some = seen.get(rng.below(seen.len().max(1) as u64) as usize).map(|e| e.id.clone()).unwrap_or_default();
            let reason = String::new();
            let request = match rng.below(24) {
                0 => Request::Grant { platform, who: target, role: super::request::Role::Moderator },
                1 => Request::Grant { platform, who: target, role: super::request::Role::Powernode },
                2 => Request::Revoke { platform, who: target },
                3 if rng.chance(0.5) => Request::Ban { platform, who: target, reason, purge: rng.chance(0.3) },
                4 => Request::Unban { platform, who: target },
                5 => Request::ShadowBan { platform, who: target, reason },
                6 => Request::Unshadow { platform, who: target },
                7 => Request::Tombstone { platform, messages: vec![some], reason },
                8 => Request::Retract { platform, message: some },
                9 => Request::Edit { platform, message: some, text: format!("edit {step}") },
                10 => Request::React { platform, message: some, reaction: "+".into() },
                11 => Request::Join { platform, nick: names[who].into() },
                _ => message("ducks", &format!("text {step}")),
            };
            refused += usize::from(matches!(net.ask(who, request), Answer::Error { .. }));
        }
        // Whoever refused something under a ban that turned out void asks again.
        for (a, b) in all.iter().chain(&all) {
            net.disconnect(*a, *b);
            net.connect(*a, *b);
        }
        let mut views: BTreeSet<String> = BTreeSet::new();
        for who in 0..4 {
            let hub = &net.hubs[who];
            let Some(platform) = hub.engine.platforms.values().find(|p| p.place.joined) else { continue };
            let viewer = hub.engine.keys.identity().unwrap();
            let mut replica = Replica::new(platform.place.id);
            for message in hub.engine.store.messages(platform.place.n).unwrap() {
                replica.insert(net.now_ms, Arc::new(message));
            }
            let view: View = replica.view(viewer);
            let expected: Vec<(String, State, bool)> = view
                .entries
                .iter()
                .map(|e| {
                    let state = match &e.shown {
                        Shown::Purged => State::Purged,
                        Shown::Absent => State::Absent,
                        Shown::Text(_) => State::Text,
                    };
                    (e.id.to_string(), state, e.edit.is_some())
                })
                .collect();
            let got: Vec<(String, State, bool)> =
                net.read(who).into_iter().map(|e| (e.id, e.state, e.edited)).collect();
            // Purged ones are not told apart by edits any more.
            let plain = |all: Vec<(String, State, bool)>| {
                all.into_iter().map(|(id, s, e)| (id, s, e && s != State::Purged)).collect::<Vec<_>>()
            };
            assert_eq!(plain(got), plain(expected), "seed {seed}, node {who}");
            views.insert(format!("{:?}", replica.view(crate::chat::Id([9; 32])).digest()));
        }
        assert!(views.len() <= 1, "seed {seed}: {} views for a stranger", views.len());
        println!("seed {seed}: {refused} of 160 refused");
    }
}
