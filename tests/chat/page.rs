//! The page in a real browser: two people, each at a daemon of their own.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use aegisray::{
    chatd::{Answer, Request as Ask},
    lab::topology::Internet,
};

use super::{
    browser::Browser,
    harness::Dir,
    people::{PASSWORD, PLATFORM, Person, people_without_identity},
};

fn url(person: &Person) -> String {
    let mut command = person.daemon.command(&person.host);
    let output = command.arg("--socket").arg(person.daemon.socket()).args(["chat", "page"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Where pictures of the page go.
fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pictures")
}

pub fn two_people_in_browsers() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let all = people_without_identity(&dir, &mut internet, &["ann", "bob"], "  page: 8006\n");
    let stranger = all[0].host.ns.run(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:8006")?;
        let body = r#"{"do":"status"}"#;
        write!(stream, "POST /api HTTP/1.0\r\nHost: 127.0.0.1:8006\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    assert!(stranger.unwrap().starts_with("HTTP/1.0 401"), "no token, no answer");
    let Some(mut ann) = Browser::open(&dir, &all[0].host, "ann", &url(&all[0])) else {
        println!("  not tried: no Chromium on this machine");
        return;
    };
    let mut bob = Browser::open(&dir, &all[1].host, "bob", &url(&all[1])).unwrap();
    for browser in [&mut ann, &mut bob] {
        browser.need_text("Make your identity", true);
        browser.fill("Master password", PASSWORD);
        browser.fill("The same again", PASSWORD);
        browser.click("Go on");
        browser.need_text("Write these 24 words down", true);
        assert_eq!(browser.eval("document.querySelectorAll('.words li').length"), 24);
        browser.click("I have written them down");
    }
    ann.click("Join or found");
    ann.fill("Name or id", PLATFORM);
    ann.fill("What you are called", "ann");
    ann.click("Found a new one");
    ann.need_text("# general", true);
    bob.need("document.getElementById('peers').innerText === 'Peers (1)'", "peer");
    bob.click("Join or found");
    bob.click(&format!("{PLATFORM} ("));
    bob.fill("What you are called", "bob");
    bob.click("Join");
    bob.need_text("# general", true);
    ann.say("<b>are there any ducks?</b>");
    bob.need_text("<b>are there any ducks?</b>", true);
    bob.click("Reply to the message of ann");
    bob.say("yes, @ann: plenty");
    ann.need_text("yes, @ann: plenty", true);
    ann.need_text("sent to 1 peer", true);
    ann.click("Agree with the message of bob");
    bob.need_text("👍 1", true);
    // What is read stays read after the daemon has started again; what is said meanwhile is unread.
    ann.eval("document.getElementById('words').value = 'plent'; document.getElementById('search').requestSubmit()");
    ann.need_text("1 found", true);
    ann.click("Close");
    for (width, height) in [(1440, 900), (768, 1024), (360, 740)] {
        ann.picture(&pictures().join(format!("chat-{width}.png")), (width, height));
        match ann.axe() {
            Some(found) => assert_eq!(found, Vec::<String>::new(), "axe at {width}"),
            None => println!("  not tried: no axe on this machine (make setup-tests)"),
        }
    }
    ann.picture(&pictures().join("chat.png"), (1440, 900));
    ann.click("Peers (");
    ann.need_text("Manual Override", true);
    ann.fill("URL of a relay", "relay.example.org");
    ann.click("Add the relay");
    ann.need_text("expected ws://HOST", true);
    ann.picture(&pictures().join("chat-peers.png"), (1440, 900));
    ann.click("Close");
    println!(
        "  two people made identities, found each other, talked, answered, reacted, searched; pictures in target/pictures"
    );

    // Alone, and on a platform of their own.
    ann.click("bob");
    ann.click("Talk alone");
    ann.need_text("Sealed for the two of you", true);
    ann.say("just the two of us");
    ann.need_text("just the two of us", true);
    bob.click("@ann");
    bob.need_text("just the two of us", true);
    bob.say("and nobody else");
    ann.need_text("and nobody else", true);
    ann.picture(&pictures().join("chat-direct.png"), (1440, 900));
    if let Some(found) = ann.axe() {
        assert_eq!(found, Vec::<String>::new(), "axe, alone");
    }
    // A picture goes with a message.
    let picture = pictures().join("chat.png");
    ann.pick("picked", &picture);
    ann.need_text("With chat.png", true);
    ann.say("see");
    for browser in [&mut ann, &mut bob] {
        browser.need("!!document.querySelector('img.attached')?.naturalWidth", "the picture");
    }
    bob.picture(&pictures().join("chat-file.png"), (1440, 900));
    // A call, with the pictures and the sound that Chromium makes up.
    ann.click("Video call");
    bob.need_text("ann calls you", true);
    bob.click("Answer");
    for browser in [&mut ann, &mut bob] {
        browser.need_text("Talking to", true);
        let shown = "document.querySelector('.call .remote').getVideoPlaybackQuality().totalVideoFrames > 30";
        browser.need(shown, "pictures of the other");
        let seen = browser.call_statistics();
        assert!(seen["frames"].as_u64() > Some(30) && seen["sound"].as_u64() > Some(0), "{seen}");
        // From mesh address to mesh address, and nowhere else.
        let mesh = |end: &str| {
            let ip: IpAddr = seen[end].as_str().unwrap_or_default().parse().expect(end);
            all.iter().any(|one| matches!(one.daemon.addresses(), Some((v4, v6)) if ip == v4 || ip == v6))
        };
        assert!(mesh("from") && mesh("to"), "{seen}");
        println!("  a video call, as one side has it: {seen}");
    }
    ann.picture(&pictures().join("chat-call.png"), (1440, 900));
    if let Some(found) = ann.axe() {
        assert_eq!(found, Vec::<String>::new(), "axe, in a call");
    }
    ann.click("Hang up");
    bob.need_text("ann has hung up", true);
    ann.click("Call");
    bob.click("Decline");
    ann.need_text("bob has hung up", true);
    for one in &all {
        assert_eq!(one.grep("just the two"), Vec::<PathBuf>::new(), "no file has it in the clear");
    }
    ann.click("Join or found");
    ann.fill("Name or id", "Loft");
    ann.fill("What you are called", "ann");
    ann.eval("document.querySelector('dialog .check').checked = true");
    ann.click("Found a new one");
    ann.need_text("Loft (private)", true);
    ann.click("# general");
    ann.need_text("are there any ducks?", true);
    ann.click("bob");
    ann.click("Invite to Loft");
    bob.need_text("ann invites you to Loft", true);
    bob.click("Join or found");
    bob.click("Loft (ann invites you)");
    bob.fill("What you are called", "bob");
    bob.click("Join");
    bob.need_text("Loft (private)", true);
    bob.click("# general");
    bob.need_text("are there any ducks?", true);
    println!("  they talk alone, and one lets the other in to a private platform");

    // Moderation by hand.
    ann.click("Purge the message of bob");
    ann.fill("Reason", "too many ducks");
    ann.click("Do it");
    bob.need_text("[Purged by Powernode]", true);
    bob.need_text("plenty", false);
    ann.click("bob");
    ann.click("Shadow ban");
    ann.click("Do it");
    bob.need("true", "a moment");
    all[1].until_audit("SHADOW_BAN");
    bob.say("can you hear me?");
    bob.need_text("can you hear me?", true);
    ann.say("quiet here");
    bob.need_text("quiet here", true);
    ann.need_text("can you hear me?", false);
    ann.click("bob");
    ann.click("Ban …");
    ann.click("Do it");
    bob.need_text("You are banned from Ducks", true);
    ann.click("What moderators did");
    ann.need_text("SHADOW_BAN", true);
    ann.picture(&pictures().join("chat-audit.png"), (1440, 900));
    ann.click("Close");
    let Answer::Status(status) = all[1].ask(Ask::Status) else { panic!() };
    assert_eq!(status.banned_from.len(), 1);
    assert_eq!(ann.errors, Vec::<String>::new());
    assert_eq!(bob.errors, Vec::<String>::new());
    println!("  one is purged, shadow-banned, banned: the page says so, and what moderators did");
}
