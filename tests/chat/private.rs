//! Conversations of two and private platforms, between daemons, over a relay that can read nothing.

use std::path::Path;

use aegisray::{
    chatd::{Answer, Request as Ask},
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    harness::Dir,
    people::{PATIENCE, PLATFORM, RELAY, files_with, people, relay},
};

pub fn sealed_over_a_relay() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let kept = dir.0.join("relay");
    let _relay = relay(&mut internet, &kept, &["--listen", "0.0.0.0:8080"]);
    let mut all = people(&dir, &mut internet, &["ann", "bob", "cid"]);
    all.iter().for_each(|one| one.add_relay(&format!("ws://{RELAY}:8080/")));
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
    all[1].need_texts("@ann", &["for your eyes only"]);
    all[1].say_at("@ann", "seen");
    all[0].start();
    all[0].need_texts("@bob", &["for your eyes only", "seen"]);
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
    all[1].need_texts("Loft", &["early bird"]);
    all[2].need_texts("Loft", &["Sealed"]);
    all[2].say_at("Loft", "here I am");
    all[1].need_texts("Loft", &["early bird", "here I am"]);
    all[0].need_texts("Loft", &["early bird", "here I am"]);
    all[0].done(Ask::Ban { platform: id.clone(), who: "cid".into(), reason: String::new(), purge: false });
    all[0].say_at("Loft", "without cid");
    all[1].need_texts("Loft", &["early bird", "here I am", "without cid"]);
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
