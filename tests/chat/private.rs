//! Conversations of two and private platforms, between daemons, over a relay that can read nothing.

use std::{path::Path, time::Duration};

use aegisray::{
    chatd::{Answer, Request as Ask, request::State},
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    harness::{Dir, program},
    people::{PLATFORM, Person, files_with, people},
    running::Running,
};

const RELAY: &str = "203.0.113.100";
const PATIENCE: Duration = Duration::from_secs(20);

impl Person {
    fn say_at(&self, platform: &str, text: &str) -> String {
        let channel = "general".to_owned();
        self.done(Ask::Send {
            platform: platform.to_owned(),
            channel,
            text: text.to_owned(),
            reply_to: None,
            files: Vec::new(),
        })
    }

    fn texts_at(&self, platform: &str) -> Vec<String> {
        let (platform, channel) = (platform.to_owned(), "general".to_owned());
        match self.ask(Ask::Read { platform, channel, before: None, after: None, limit: None }) {
            Answer::Messages { messages, .. } => {
                let text = |e: aegisray::chatd::request::Entry| match e.state {
                    State::Text => e.text,
                    other => format!("{other:?}"),
                };
                messages.into_iter().map(text).collect()
            }
            _ => Vec::new(),
        }
    }

    #[track_caller]
    fn need_at(&self, platform: &str, expected: &[&str]) {
        let same = wait_for(PATIENCE, || (self.texts_at(platform) == expected).then_some(()));
        let (name, log) = (&self.daemon.name, self.daemon.log_tail());
        assert!(same.is_some(), "{name}: {:?}, expected {expected:?}\n{log}", self.texts_at(platform));
    }

    fn has_copies(&self, platform: &str) {
        let (platform, channel) = (platform.to_owned(), "general".to_owned());
        let read = || match self.ask(Ask::Read {
            platform: platform.clone(),
            channel: channel.clone(),
            before: None,
            after: None,
            limit: Some(1),
        }) {
            Answer::Messages { messages, .. } => (messages.last()?.copies >= 1).then_some(()),
            _ => None,
        };
        wait_for(PATIENCE, read).expect("the relay has it");
    }
}

pub fn sealed_over_a_relay() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let server = internet.public(RELAY.parse().unwrap()).unwrap();
    let mut command = server.ns.command(program());
    let kept = dir.0.join("relay");
    command.args(["chat-relay", "--listen", "0.0.0.0:8080", "--dir"]).arg(&kept);
    let _relay = Running::start(command);
    let mut all = people(&dir, &mut internet, &["ann", "bob", "cid"]);
    for one in &all {
        one.done(Ask::AddRelay { url: format!("ws://{RELAY}:8080/") });
    }
    all[0].found();
    all[1].join();
    all[2].join();
    all[0].say("in public");
    all[1].need_text("in public");
    all[2].need_text("in public");
    // Bob is away when ann begins to talk to him, and ann when he comes back.
    all[1].daemon.kill();
    all[0].done(Ask::Direct { platform: PLATFORM.to_owned(), who: "bob".to_owned() });
    all[0].say_at("@bob", "for your eyes only");
    all[0].has_copies("@bob");
    all[0].daemon.kill();
    all[1].start();
    all[1].need_at("@ann", &["for your eyes only"]);
    all[1].say_at("@ann", "seen");
    all[0].start();
    all[0].need_at("@bob", &["for your eyes only", "seen"]);
    println!("  a conversation of two begins while one is away, and goes on when the other is");

    // A private platform, of which a member is banned.
    let loft = Ask::Found { name: "Loft".to_owned(), nick: "ann".to_owned(), private: true };
    let id = all[0].done(loft);
    all[0].say_at("Loft", "early bird");
    for (who, history) in [("bob", true), ("cid", false)] {
        let (platform, who, from) = ("Loft".to_owned(), who.to_owned(), PLATFORM.to_owned());
        all[0].done(Ask::Invite { platform, who, from, history });
    }
    for one in &all[1..] {
        let join = || {
            let join = Ask::Join { platform: "Loft".to_owned(), nick: one.daemon.name.clone() };
            (!matches!(one.ask(join), Answer::Error { .. })).then_some(())
        };
        wait_for(PATIENCE, join).expect("the invitation is there");
    }
    all[1].need_at("Loft", &["early bird"]);
    all[2].need_at("Loft", &["Sealed"]);
    all[2].say_at("Loft", "here I am");
    all[1].need_at("Loft", &["early bird", "here I am"]);
    all[0].need_at("Loft", &["early bird", "here I am"]);
    all[0].done(Ask::Ban { platform: id.clone(), who: "cid".into(), reason: String::new(), purge: false });
    all[0].say_at("Loft", "without cid");
    all[1].need_at("Loft", &["early bird", "here I am", "without cid"]);
    let gone = || all[2].texts_at("Loft").is_empty().then_some(());
    wait_for(PATIENCE, gone).expect("cid's node deletes it");
    println!("  a private platform: let in with and without what was before, and out");

    // Nothing of it is readable where it lies.
    for words in ["for your eyes", "early bird", "here I am", "without cid", "Loft"] {
        assert_eq!(files_with(&kept, words), Vec::<&Path>::new(), "the relay: {words}");
    }
    assert!(!files_with(&kept, "in public").is_empty(), "what is public is");
    for one in &all {
        for words in ["for your eyes", "early bird", "without cid"] {
            assert_eq!(one.grep(words), Vec::<&Path>::new(), "{}: {words}", one.daemon.name);
        }
    }
    println!("  no file of the relay or of any node has the words or the name; what is public the relay has");
}
