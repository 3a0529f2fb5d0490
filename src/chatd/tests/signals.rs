//! Signals between people, which nobody keeps.

use super::{
    super::request::{Answer, Happened, Request},
    Net, ducks,
};

impl Net {
    fn signal(&mut self, who: usize, whom: &str, data: &str) {
        self.done(who, Request::Signal { platform: ducks(), who: whom.to_owned(), data: data.to_owned() });
    }

    /// What a node's page was told.
    fn heard(&mut self, who: usize) -> Vec<String> {
        let Answer::Events { events, .. } = self.ask(who, Request::Events { after: 0 }) else { panic!() };
        let data = |e| if let Happened::Signal { data, .. } = e { Some(data) } else { None };
        events.into_iter().filter_map(data).collect()
    }
}

#[test]
fn who_signals_too_much_silences_nobody_else() {
    let mut net = Net::new(4);
    // A ring: what is handed on comes back, from both sides.
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        net.connect(a, b);
    }
    net.platform();
    net.signal(0, "cid", "ringing");
    assert_eq!((net.heard(2), net.heard(1), net.heard(3)), (vec!["ringing".to_owned()], vec![], vec![]));
    for n in 0..300 {
        net.signal(1, "cid", &format!("noise {n}"));
    }
    let heard = net.heard(2);
    assert!((200..=256).contains(&(heard.len() - 1)), "{}", heard.len());
    net.signal(3, "ann", "still there");
    net.signal(0, "cid", "and here");
    assert_eq!(net.heard(0), ["still there"]);
    assert_eq!(net.heard(2).last().unwrap(), "and here");
    // Later there is room again.
    net.now_ms += 150_000;
    net.signal(1, "cid", "sorry");
    assert_eq!(net.heard(2).last().unwrap(), "sorry");
    // Nothing of it is kept.
    assert!((0..4).all(|who| net.grep(who, "ringing").is_empty()));
}
