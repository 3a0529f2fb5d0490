//! What a relay takes in, keeps and lets go; and messages that come damaged or without their bytes.

use super::{
    super::{
        engine::{Engine, Fate},
        gate::Gate,
        hub::Hub,
        keys::Keys,
        relay::{self, Limits},
        request::Request,
        store::Store,
    },
    Net, ducks,
};
use crate::{
    chat::{Body, Id, Message},
    crypto::Rng,
};

impl Net {
    /// A relay, as the last node.
    pub fn add_relay(&mut self) {
        std::fs::create_dir_all(self.dir.join("relay")).unwrap();
        let store = Store::open(&self.dir.join("relay/chat.db")).unwrap();
        let keys = Keys::open(&self.dir.join("relay/identity.json")).unwrap();
        let engine = Engine::new(store, keys, Some(Limits::default()), Rng::from_seed([9; 32])).unwrap();
        self.hubs.push(Hub::new(engine, Some(Gate::default())));
    }

    /// Ann and bob, of one platform, with a relay between them.
    pub fn with_relay() -> Self {
        let mut net = Self::new(2);
        net.add_relay();
        net.connect(0, 2);
        net.connect(1, 2);
        let platform = net.done(0, Request::Found { name: "Ducks".into(), nick: "ann".into(), private: false });
        net.done(1, Request::Join { platform, nick: "bob".into() });
        net
    }

    /// A message as this node has it.
    pub fn message(&self, who: usize, id: &str) -> Message {
        let id = Id::of(&data_encoding::HEXLOWER.decode(id.as_bytes()).unwrap()).unwrap();
        self.hubs[who].engine.store.get(&id).unwrap().unwrap().message
    }

    /// What becomes of these at a node.
    fn bring(&mut self, who: usize, batch: Vec<Vec<u8>>) -> Vec<Fate> {
        let taken = self.hubs[who].engine.ingest(self.now_ms, batch).unwrap();
        taken.fates.into_iter().map(|(_, fate)| fate).collect()
    }
}

#[test]
fn a_relay_takes_in_at_its_own_pace_and_loses_nothing() {
    let mut net = Net::with_relay();
    for i in 0..300 {
        net.say(0, &format!("number {i}"));
    }
    assert_eq!((net.texts(1).len(), net.texts(1)[299].as_str()), (300, "number 299"));
    // Many at once, from before the relay was there.
    net.disconnect(0, 2);
    for i in 300..900 {
        net.say(0, &format!("number {i}"));
    }
    net.connect(0, 2);
    assert_eq!(net.texts(1), net.texts(0));
    assert_eq!(net.read(0).last().unwrap().copies, 1, "the relay has it");
    assert_eq!(net.hubs[2].gate.as_ref().unwrap().dropped, 0);
}

#[test]
fn a_relay_lets_go_of_what_is_old_or_too_much() {
    let mut net = Net::with_relay();
    net.say(1, "a quiet word");
    for i in 0..1200 {
        net.say(0, &format!("number {i} {}", "and so on ".repeat(20)));
    }
    let content = |net: &Net| {
        let place = net.hubs[2].engine.platforms.values().next().unwrap().place;
        let all = net.hubs[2].engine.store.messages(place.n).unwrap();
        all.into_iter().filter(|m| !m.head.kind.is_authority()).count()
    };
    assert_eq!(content(&net), 1201);
    // Too much: whoever has most loses the oldest.
    let store = &net.hubs[2].engine.store;
    let limits = Limits { quota: store.bytes().unwrap() - 1, ..Limits::default() };
    assert_eq!(relay::make_room(store, &Limits::default()).unwrap(), 0);
    assert_eq!(relay::make_room(store, &limits).unwrap(), 1000);
    assert_eq!(content(&net), 201);
    let files = |net: &Net, needle: &[u8]| {
        let files =
            std::fs::read_dir(net.dir.join("relay")).unwrap().map(|f| std::fs::read(f.unwrap().path()).unwrap());
        files.filter(|bytes| bytes.windows(needle.len()).any(|w| w == needle)).count()
    };
    assert_eq!((files(&net, b"number 7 "), files(&net, b"number 1100 "), files(&net, b"a quiet word")), (0, 1, 1));
    // Too old: a week is not over, then it is; and who has it all does not bring it back.
    let now = net.now_ms;
    assert_eq!(relay::sweep(&net.hubs[2].engine.store, &limits, now).unwrap(), 0);
    net.now_ms += Limits::default().keep_ms + 60_000;
    assert_eq!(relay::sweep(&net.hubs[2].engine.store, &Limits::default(), net.now_ms).unwrap(), 201);
    assert_eq!((content(&net), files(&net, b"a quiet word")), (0, 0));
    net.disconnect(0, 2);
    net.connect(0, 2);
    assert_eq!(content(&net), 0);
    assert_eq!(net.texts(0).len(), 500, "nodes of people keep all");
    let old = net.read(0)[0].id.clone();
    let bytes = net.message(0, &old).encode();
    assert_eq!(net.bring(2, vec![bytes]), [Fate::Refused("content of these days")]);
    // What is new comes as ever.
    net.say(0, "a new week");
    assert_eq!((content(&net), net.texts(1).last().unwrap().as_str()), (1, "a new week"));
}

#[test]
fn a_relay_takes_nothing_of_who_is_banned() {
    let mut net = Net::with_relay();
    let before = net.say(1, "hello");
    net.disconnect(1, 2);
    net.done(0, Request::Ban { platform: ducks(), who: "bob".into(), reason: String::new(), purge: false });
    let after = net.say(1, "I was not told");
    let bytes = net.message(1, &after).encode();
    assert_eq!(net.bring(2, vec![bytes]), [Fate::Refused("an author who is not banned")]);
    let bytes = net.message(1, &before).encode();
    assert_eq!(net.bring(2, vec![bytes]), [Fate::Stored { new: false }], "within the cut");
}

#[test]
fn a_forged_copy_does_not_stand_for_the_honest_one() {
    let mut net = Net::new(2);
    net.connect(0, 1);
    net.platform();
    net.disconnect(0, 1);
    let id = net.say(0, "signed");
    let honest = net.message(0, &id);
    let mut forged = honest.clone();
    forged.signature[7] ^= 1;
    let batch = vec![forged.encode(), honest.encode(), honest.encode()];
    let refused = Fate::Refused("a signature of its author");
    assert_eq!(net.bring(1, batch), [refused, Fate::Stored { new: true }, Fate::Stored { new: false }]);
    assert_eq!(net.texts(1), ["signed"]);
}

#[test]
fn bytes_that_are_missing_are_asked_for() {
    let mut net = Net::new(2);
    net.connect(0, 1);
    net.platform();
    net.disconnect(0, 1);
    let id = net.say(0, "the whole of it");
    let mut bare = net.message(0, &id);
    bare.body = Body::Content(None);
    assert_eq!(net.bring(1, vec![bare.encode()]), [Fate::Stored { new: true }]);
    assert_eq!(net.texts(1), ["Absent"]);
    net.connect(0, 1);
    assert_eq!(net.texts(1), ["the whole of it"]);
    // Those of what was purged are not.
    net.done(0, Request::Retract { platform: ducks(), message: id });
    assert_eq!(net.texts(1), ["Purged"]);
    net.disconnect(0, 1);
    net.connect(0, 1);
    assert_eq!(net.texts(1), ["Purged"]);
}
