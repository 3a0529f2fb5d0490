//! Bans, shadow bans and tombstones, as other nodes and their files see them.

use std::{fs, path::PathBuf, time::Duration};

use aegisray::{
    chatd::{Answer, Request as Ask, request::Role},
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    harness::Dir,
    people::{PLATFORM, people},
};

pub fn every_file() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut all = people(&dir, &mut internet, &["ann", "bob", "cid", "dot"]);
    let id = all[0].found();
    all[1..].iter().for_each(super::people::Person::join);
    let platform = || PLATFORM.to_owned();
    let secret = all[2].say("quicksilver is poisonous");
    all[2].say("cid says hello");
    all[3].say("and dot");
    for one in &all {
        one.need_texts(PLATFORM, &["quicksilver is poisonous", "cid says hello", "and dot"]);
        assert!(!one.grep("quicksilver").is_empty(), "it is somewhere before it is purged");
    }
    let stone = || Ask::Tombstone { platform: platform(), messages: vec![secret.clone()], reason: "danger".into() };
    assert!(all[1].refused(stone()).contains("takes a Moderator"));
    all[0].done(Ask::Grant { platform: platform(), who: "bob".into(), role: Role::Moderator });
    wait_for(Duration::from_secs(10), || matches!(all[1].ask(stone()), Answer::Id { .. }).then_some(())).unwrap();
    for one in &all {
        one.need_texts(PLATFORM, &["Purged", "cid says hello", "and dot"]);
        assert_eq!(one.grep("quicksilver"), Vec::<PathBuf>::new(), "{}", one.daemon.name);
    }
    println!("  tombstone: 4 nodes, no file of any has the bytes");
    // A node that was away: the stone comes before, or with, what it purges.
    all[3].daemon.kill();
    let other = all[2].say("mercury is, too");
    all[1].need_text("mercury is, too");
    all[1].done(Ask::Tombstone { platform: platform(), messages: vec![other], reason: String::new() });
    let dot = &mut all[3];
    dot.start();
    dot.need_texts(PLATFORM, &["Purged", "cid says hello", "and dot", "Purged"]);
    assert_eq!(dot.grep("mercury is"), Vec::<PathBuf>::new());

    all[1].done(Ask::ShadowBan { platform: platform(), who: "dot".into(), reason: "noise".into() });
    all[3].until_audit("SHADOW_BAN");
    all[3].say("can you hear me?");
    all[3].need_text("can you hear me?");
    all[2].say("it is quiet here");
    for one in &all[..3] {
        one.need_text("it is quiet here");
        assert!(!one.texts().contains(&"can you hear me?".to_owned()), "{}", one.daemon.name);
    }
    println!("  shadow ban: its target sees itself, nobody else does");

    all[1].done(Ask::Ban { platform: platform(), who: "cid".into(), reason: "spam".into(), purge: true });
    let cid = &all[2];
    let file = cid.daemon.dir.join("state/chat/identity.json");
    let noted = || fs::read_to_string(&file).ok().filter(|t| t.contains(&id));
    let text = wait_for(Duration::from_secs(10), noted).unwrap_or_else(|| panic!("{}", cid.daemon.log_tail()));
    assert!(text.contains("\"BannedFrom\""));
    let gone = || cid.grep("and dot").is_empty().then_some(());
    wait_for(Duration::from_secs(5), gone).expect("its own copy of the platform is deleted");
    for one in [&all[0], &all[1], &all[3]] {
        let gone = || one.grep("cid says hello").is_empty().then_some(());
        wait_for(Duration::from_secs(10), gone).unwrap_or_else(|| panic!("{}", one.daemon.name));
    }
    let join = || Ask::Join { platform: platform(), nick: "cid".into() };
    assert!(cid.refused(join()).contains("banned"));
    let Answer::Offers { offers } = cid.ask(Ask::Discover) else { panic!() };
    assert!(offers.iter().all(|o| o.id != id || o.banned), "{offers:?}");
    println!("  ban with purge: BannedFrom has it, its copy is deleted, nobody's file has its words");
    all[0].done(Ask::Unban { platform: platform(), who: "cid".into() });
    wait_for(Duration::from_secs(10), || (!matches!(cid.ask(join()), Answer::Error { .. })).then_some(())).unwrap();
    cid.need_text("and dot");
    cid.say("back again");
    all[0].need_text("back again");
}
