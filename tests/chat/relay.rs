//! A relay on a public server, for people whose nodes are not there at the same time.

use std::time::Duration;

use aegisray::{
    chatd::{Answer, Request as Ask},
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    certify::certify,
    harness::Dir,
    people::{PASSWORD, PLATFORM, RELAY, people_without_identity, relay},
};

pub fn store_and_forward() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    certify(&dir.0, RELAY, 1);
    let file = |end: &str| dir.0.join(format!("{RELAY}.{end}")).to_string_lossy().into_owned();
    let options = ["--listen", "0.0.0.0:8443", "--certificate", &file("pem"), "--key", &file("key")];
    let _relay = relay(&mut internet, &dir.0.join("relay"), &options);
    let authority = dir.0.join("ca.pem");
    let more = format!("  page: 0\nstealth:\n  roots: {}\n", authority.display());
    let mut all = people_without_identity(&dir, &mut internet, &["ann", "bob"], &more);
    all.iter().for_each(|one| one.done_with_identity(PASSWORD));
    let page = || {
        let mut curl = all[0].host.ns.command("curl");
        let curl = curl.args(["-sS", "-m", "2", "--noproxy", "*", &format!("https://{RELAY}:8443/"), "--cacert"]);
        let output = curl.arg(&authority).output().unwrap();
        String::from_utf8(output.stdout).ok().filter(|t| t.contains("Manual Override"))
    };
    println!(
        "  {}",
        wait_for(Duration::from_secs(5), page).expect("the relay's page").trim_end().replace('\n', "\n  ")
    );
    let url = || format!("wss://{RELAY}:8443/");
    assert!(all[0].refused(Ask::AddRelay { url: "relay.example.org".into() }).contains("expected ws://"));
    all.iter().for_each(|one| one.add_relay(&url()));
    let connected = |who: usize| match all[who].ask(Ask::Peers) {
        Answer::Peers { peers, .. } => peers.iter().any(|p| p.relay && p.connected).then_some(()),
        _ => None,
    };
    for who in [0, 1] {
        wait_for(Duration::from_secs(10), || connected(who)).expect("the relay is reached");
    }
    all[0].found();
    all[1].join();
    all[0].say("both here");
    all[1].need_text("both here");
    // Bob goes; ann says something and goes; bob comes back alone.
    all[1].daemon.kill();
    all[0].say("are you there?");
    all[0].has_copies(PLATFORM);
    all[0].daemon.kill();
    let bob = &mut all[1];
    bob.start();
    bob.need_texts(PLATFORM, &["both here", "are you there?"]);
    bob.done(Ask::RemoveRelay { url: url() });
    let gone = || match bob.ask(Ask::Peers) {
        Answer::Peers { peers, .. } => peers.iter().all(|p| !p.relay).then_some(()),
        _ => None,
    };
    wait_for(Duration::from_secs(5), gone).expect("what is removed is left");
    println!("  bob reads what ann said while he was away, and she is away now");
}
