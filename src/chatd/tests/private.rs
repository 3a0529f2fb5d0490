//! Private platforms, conversations of two, and who can read what.

use std::path::PathBuf;

use super::{
    super::request::{Answer, Request},
    Net, PASSWORD, ducks,
};

impl Net {
    fn invite(&mut self, who: usize, platform: &str, whom: &str, history: bool) {
        let (platform, whom, from) = (platform.to_owned(), whom.to_owned(), ducks());
        self.done(who, Request::Invite { platform, who: whom, from, history });
    }

    fn found(&self, who: usize, platform: &str, words: &str) -> Vec<String> {
        let Answer::Messages { messages, .. } = self.hubs[who].engine.search(platform, words, None).unwrap() else {
            panic!()
        };
        messages.into_iter().map(|m| m.text).collect()
    }
}

fn everybody(net: &mut Net) {
    for other in 1..net.hubs.len() {
        net.connect(0, other);
    }
    net.platform();
}

#[test]
fn two_talk_alone() {
    let mut net = Net::new(3);
    everybody(&mut net);
    let id = net.done(0, Request::Direct { platform: ducks(), who: "bob".into() });
    assert_eq!(net.done(0, Request::Direct { platform: ducks(), who: "bob".into() }), id, "there is one");
    let first = net.send(0, "@bob", "between the two of us");
    assert_eq!(net.seen(1, "@ann"), ["between the two of us"]);
    assert_eq!(net.done(1, Request::Direct { platform: ducks(), who: "ann".into() }), id, "from the other side too");
    net.send(1, "@ann", "not a word to cid");
    let edit = Request::Edit { platform: "@bob".into(), message: first.clone(), text: "between us two".into() };
    net.done(0, edit);
    net.done(1, Request::React { platform: id.clone(), message: first, reaction: "🦆".into() });
    for who in 0..2 {
        let name = ["@bob", "@ann"][who];
        assert_eq!(net.seen(who, name), ["between us two", "not a word to cid"]);
        assert_eq!(net.found(who, name, "word cid"), ["not a word to cid"]);
        assert_eq!(net.found(who, name, "two"), ["between us two"]);
        let Answer::Platforms { platforms } = net.ask(who, Request::Platforms) else { panic!() };
        let direct = platforms.iter().find(|p| p.id == id).unwrap();
        assert!(direct.private && direct.direct && direct.name == name && direct.members == 2, "{direct:?}");
        assert_eq!((direct.channels[0].unread, direct.channels[0].mentions), (1, 1));
    }
    // Nobody else has it, offers it, or can read it: and what lies on the disks and goes over the links is sealed.
    let Answer::Platforms { platforms } = net.ask(2, Request::Platforms) else { panic!() };
    assert_eq!(platforms.len(), 1);
    let Answer::Offers { offers } = net.ask(2, Request::Discover) else { panic!() };
    assert!(offers.iter().all(|o| o.id != id), "{offers:?}");
    for who in 0..3 {
        assert_eq!(net.grep(who, "not a word"), Vec::<PathBuf>::new(), "{who}");
    }
    // A tombstone works as anywhere, in the index of words too.
    let secret = net.send(1, "@ann", "quicksilver");
    net.done(1, Request::Retract { platform: "@ann".into(), message: secret });
    assert_eq!(net.seen(0, "@bob").last().unwrap(), "Purged");
    assert_eq!((net.found(0, "@bob", "quicksilver"), net.grep(0, "quicksilver")), (vec![], vec![]));
    // It is the same after a restart.
    net.hubs[1] = {
        let hub = net.open(1);
        net.hubs.push(hub);
        net.hubs.swap_remove(1)
    };
    assert_eq!(net.seen(1, "@ann").len(), 3);
    net.done(1, Request::Unlock { password: PASSWORD.into() });
    // Who left is asked again by the next who wants to talk.
    net.disconnect(0, 1);
    net.connect(0, 1);
    net.done(1, Request::Leave { platform: "@ann".into() });
    net.send(0, "@bob", "are you gone?");
    net.done(0, Request::Direct { platform: ducks(), who: "bob".into() });
    net.send(0, "@bob", "and back?");
    let seen = net.seen(1, "@ann");
    assert_eq!((seen.last().unwrap().as_str(), &seen[seen.len() - 2][..]), ("and back?", "Sealed"));
}

#[test]
fn a_private_platform_is_for_who_was_let_in() {
    let mut net = Net::new(5);
    everybody(&mut net);
    let found = Request::Found { name: "Loft".into(), nick: "ann".into(), private: true };
    let id = net.done(0, found);
    net.send(0, "Loft", "before anybody came");
    // Whoever knows the id gets no further.
    let join = |nick: &str| Request::Join { platform: id.clone(), nick: nick.into() };
    assert!(matches!(net.ask(4, join("eve")), Answer::Joining { .. }));
    net.invite(0, "Loft", "bob", false);
    net.invite(0, "Loft", "cid", true);
    let Answer::Offers { offers } = net.ask(1, Request::Discover) else { panic!() };
    let offer = offers.iter().find(|o| o.id == id).unwrap();
    assert_eq!((offer.name.as_str(), offer.by.as_deref(), offer.joined), ("Loft", Some("ann"), false));
    net.done(1, Request::Join { platform: "loft".into(), nick: "bob".into() });
    net.done(2, join("cid"));
    net.send(1, "Loft", "hello from bob");
    net.send(2, "Loft", "and cid");
    assert_eq!(net.seen(2, "Loft"), ["before anybody came", "hello from bob", "and cid"]);
    assert_eq!(net.found(2, "Loft", "anybody"), ["before anybody came"]);
    assert_eq!(net.seen(0, "Loft"), net.seen(2, "Loft"));
    assert_eq!(net.seen(1, "Loft"), ["Sealed", "hello from bob", "and cid"], "let in without what was before");
    assert!(net.found(1, "Loft", "anybody").is_empty());
    let members = |net: &mut Net, who: usize| match net.ask(who, Request::Members { platform: id.clone() }) {
        Answer::Members { members } => members.into_iter().map(|m| (m.nick, m.banned)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let is = |name: &str, banned| (name.to_owned(), banned);
    assert_eq!(members(&mut net, 1), [is("ann", false), is("bob", false), is("cid", false)]);
    // Members let others in; what is not theirs to decide is refused.
    net.invite(1, "Loft", "dot", false);
    net.done(3, join("dot"));
    net.send(3, "Loft", "dot is here");
    assert_eq!(net.seen(0, "Loft").last().unwrap(), "dot is here");
    let invite = Request::Invite { platform: ducks(), who: "eve".into(), from: ducks(), history: false };
    assert!(net.refused(0, invite).contains("expected a private platform"));

    // Who is banned gets nothing that is written after it, whatever reaches them.
    net.disconnect(0, 2);
    net.done(0, Request::Ban { platform: id.clone(), who: "cid".into(), reason: String::new(), purge: false });
    let after = net.send(0, "Loft", "cid is gone");
    assert_eq!(net.seen(3, "Loft").last().unwrap(), "cid is gone");
    let sealed = net.message(0, &after);
    let cids = net.hubs[2].engine.platforms.values().find(|p| p.place.id == sealed.platform).unwrap();
    assert!(cids.plain(&net.message(0, &after)).is_none() && !cids.secrets.is_empty());
    net.connect(0, 2);
    let cids = net.hubs[2].engine.platforms.values().find(|p| p.place.id == sealed.platform).unwrap();
    assert!(cids.plain(&sealed).is_none() && cids.secrets.is_empty(), "and loses what they had");
    let invite = Request::Invite { platform: id.clone(), who: "cid".into(), from: ducks(), history: false };
    assert!(net.refused(1, invite).contains("UNBAN"));
    // Unbanned and let in again: from then on.
    net.done(0, Request::Unban { platform: id.clone(), who: "cid".into() });
    net.invite(0, "Loft", "cid", false);
    net.done(2, join("cid"));
    net.send(0, "Loft", "cid is back");
    assert_eq!(net.seen(2, "Loft").last().unwrap(), "cid is back");
    // Who leaves is not given what comes after either.
    net.done(3, Request::Leave { platform: id.clone() });
    let after = net.send(1, "Loft", "dot left");
    let sealed = net.message(1, &after);
    let secret = crate::chat::sealed::secret_of(&sealed.payload().unwrap()).unwrap();
    let holders = net.hubs[0].engine.platforms.values().find(|p| p.place.id == sealed.platform).unwrap();
    let dots = net.hubs[3].engine.keys.device().unwrap();
    for act in &holders.seals {
        let crate::chat::Body::Seal(seal) = &act.body else { panic!() };
        assert!(!seal.secrets.contains(&secret) || seal.boxes.iter().all(|(d, _)| *d != dots));
    }
    // Names are sealed like content.
    net.done(
        0,
        Request::Channel {
            platform: id.clone(),
            name: "cellar".into(),
            topic: Some("where the treasure is".into()),
            rename: None,
            archived: None,
        },
    );
    let Answer::Platforms { platforms } = net.ask(1, Request::Platforms) else { panic!() };
    assert!(
        platforms.iter().any(|p| p.name == "Loft" && p.channels.iter().any(|c| c.topic == "where the treasure is"))
    );
    for who in 0..5 {
        assert_eq!(net.grep(who, "the treasure"), Vec::<PathBuf>::new(), "{who}");
    }
}

#[test]
fn another_device_of_the_same_person_reads_on() {
    let mut net = Net::new(2);
    everybody(&mut net);
    let id = net.done(0, Request::Found { name: "Loft".into(), nick: "ann".into(), private: true });
    net.invite(0, "Loft", "bob", false);
    net.done(1, Request::Join { platform: id.clone(), nick: "bob".into() });
    net.send(1, "Loft", "to both of ann's devices");
    // Bob's identity on a third node, by its words.
    let dir = net.dir.join("2");
    std::fs::create_dir_all(&dir).unwrap();
    let words = net.hubs[1].engine.keys.words(PASSWORD).unwrap();
    let mut hub = net.open(2);
    let again = Request::IdentityNew { password: PASSWORD.into(), words: Some(words) };
    assert!(matches!(hub.request(net.now_ms, again), Answer::Identity { .. }));
    net.hubs.push(hub);
    net.connect(1, 2);
    net.done(2, Request::Join { platform: "ducks".into(), nick: "bob".into() });
    // His other device gives it what it has, and tells where, as soon as it sees it.
    net.send(1, "Loft", "hello, me");
    assert_eq!(net.seen(2, "Loft"), ["to both of ann's devices", "hello, me"]);
    net.send(2, "Loft", "hello from the other");
    assert_eq!(net.seen(0, "Loft").last().unwrap(), "hello from the other");
    assert!(net.read(0).iter().all(|e| !e.forked));
}
