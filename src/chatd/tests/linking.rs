//! A new device gets the identity of another one.

use super::{
    super::request::{Answer, Code, Request},
    Net, PASSWORD, ducks,
};

const OTHER: &str = "another password";

impl Net {
    /// A node without an identity, linked with these.
    fn add_bare(&mut self, links: &[usize]) -> usize {
        let who = self.hubs.len();
        std::fs::create_dir_all(self.dir.join(who.to_string())).unwrap();
        let hub = self.open(who);
        self.hubs.push(hub);
        links.iter().for_each(|other| self.connect(who, *other));
        who
    }

    fn codes(&mut self, who: usize) -> Vec<Code> {
        self.now_ms += 4000;
        let outputs = self.hubs[who].tick(self.now_ms).unwrap();
        self.carry(who, outputs);
        self.settle();
        match self.ask(who, Request::LinkCodes) {
            Answer::Codes { codes } => codes,
            other => panic!("{other:?}"),
        }
    }

    fn allow(&mut self, who: usize, code: &str) -> Answer {
        self.ask(who, Request::LinkAllow { code: code.to_owned(), password: PASSWORD.to_owned() })
    }
}

#[test]
fn a_new_device_gets_the_identity_by_a_code() {
    let mut net = Net::new(2);
    net.connect(0, 1);
    net.platform();
    net.done(0, Request::Direct { platform: ducks(), who: "bob".into() });
    net.send(0, "@bob", "for both of your devices");
    let new = net.add_bare(&[0, 1]);
    assert!(net.refused(new, Request::LinkNew { password: "short".into() }).contains("at least 8"));
    assert!(net.refused(0, Request::LinkNew { password: OTHER.into() }).contains("an identity already"));
    net.done(new, Request::LinkNew { password: OTHER.into() });
    let codes = net.codes(new);
    assert!(codes.len() == 2 && codes.iter().all(|c| c.code.len() == 6), "{codes:?}");
    let of = |n: &str| codes.iter().find(|c| c.node.ends_with(n)).unwrap().code.clone();
    // The code for another node is none here; nor is a password that is not the master's.
    let (anns, bobs) = (of("0"), of("1"));
    assert!(matches!(net.allow(1, &anns), Answer::Error { .. }) || anns == bobs);
    let wrong = Request::LinkAllow { code: bobs.clone(), password: "no such horse".into() };
    assert!(net.refused(1, wrong).contains("not the master password"));
    assert!(matches!(net.allow(1, &bobs), Answer::Linked { node } if node == format!("node {new}")));
    // Somebody else may give it one as well: it takes none but what the person has typed in.
    assert!(matches!(net.allow(0, &anns), Answer::Linked { .. }));
    let take = |code: &str| Request::LinkTake { code: code.to_owned() };
    assert!(net.codes(new).iter().all(|c| c.given) && net.hubs[new].engine.keys.identity().is_none());
    assert!(net.refused(new, take("1234567")).contains("nothing was given"));
    net.done(new, take(&bobs));
    assert_eq!(net.hubs[new].engine.keys.identity(), net.hubs[1].engine.keys.identity());
    assert_ne!(net.hubs[new].engine.keys.device(), net.hubs[1].engine.keys.device());
    // It takes part where the other does, in what is sealed too.
    net.send(0, "@bob", "and again");
    assert_eq!(net.seen(new, "@ann"), ["for both of your devices", "and again"]);
    net.say(new, "from the new one");
    assert_eq!(net.read(0).last().unwrap().nick, "bob");
    assert!(matches!(net.ask(new, Request::Unlock { password: OTHER.into() }), Answer::Done));
}

#[test]
fn guessing_ends_soon() {
    let mut net = Net::new(1);
    let new = net.add_bare(&[0]);
    net.done(new, Request::LinkNew { password: OTHER.into() });
    let codes = net.codes(new);
    let good = codes[0].code.clone();
    let wrong = if good == "000000" { "000001" } else { "000000" };
    for _ in 0..3 {
        assert!(matches!(net.allow(0, wrong), Answer::Error { .. }));
    }
    assert!(matches!(net.allow(0, &good), Answer::Error { .. }), "all that was begun has ended");
    // Only so many may try while a code is good.
    for n in 0..10 {
        net.done(new, Request::LinkNew { password: OTHER.into() });
        assert_eq!(net.codes(new).len(), usize::from(n < 7), "{n}");
    }
    net.now_ms += 700_000;
    assert!(net.codes(new).is_empty(), "what was begun is forgotten");
    net.done(new, Request::LinkNew { password: OTHER.into() });
    let codes = net.codes(new);
    assert!(matches!(net.allow(0, &codes[0].code), Answer::Linked { .. }));
}
