//! The commands of the documentation, as somebody types them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use aegisray::lab::{daemon::wait_for, topology::Internet};

use super::{
    harness::Dir,
    people::{Person, people_without_identity},
};

const WORDS: &str = "a password of one's own";

impl Person {
    fn types(&self, line: &[&str]) -> Output {
        let mut command = self.daemon.command(&self.host);
        command.arg("chat").args(line).arg("--socket").arg(self.daemon.socket());
        command.env("AEGISRAY_CHAT_PASSWORD", WORDS).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    pub fn prints(&self, line: &[&str]) -> String {
        let output = self.types(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: chat {line:?}: {errors}", self.daemon.name);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    fn fails(&self, line: &[&str]) -> String {
        let output = self.types(line);
        assert!(!output.status.success(), "{}: chat {line:?} works", self.daemon.name);
        String::from_utf8(output.stderr).unwrap()
    }
}

pub fn documented() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let all = people_without_identity(&dir, &mut internet, &["ann", "bob", "third"], "  page: 8006\n");
    let (ann, bob) = (&all[0], &all[1]);
    let no = ann.fails(&["found", "Ducks", "--nick", "ann"]);
    assert!(no.contains("aegisray chat identity new"), "{no}");
    let words = ann.prints(&["identity", "new"]);
    let list: Vec<&str> = words.lines().skip(1).flat_map(str::split_whitespace).collect();
    assert_eq!(list.iter().filter(|w| w.parse::<u32>().is_err()).count(), 24, "{words}");
    assert!(bob.prints(&["identity", "new", "--json"]).contains("\"words\""));
    let id = ann.prints(&["found", "Ducks", "--nick", "ann"]);
    assert_eq!(id.len(), 64, "{id}");
    let offered = wait_for(Duration::from_secs(10), || {
        let offers = bob.prints(&["discover"]);
        offers.contains(&id).then_some(offers)
    });
    println!("  {}", offered.expect("the platform is offered").replace('\n', "\n  "));
    bob.prints(&["join", "Ducks", "--nick", "bob"]);
    let in_it = || bob.prints(&["platforms"]).contains("#general").then_some(());
    wait_for(Duration::from_secs(10), in_it).expect("bob is in it");

    // Somebody listens.
    let mut tail = bob.daemon.command(&bob.host);
    tail.args(["chat", "tail", "--socket"]).arg(bob.daemon.socket()).stdout(Stdio::piped());
    let mut tail = tail.spawn().unwrap();
    let (heard, lines) = mpsc::channel();
    let out = BufReader::new(tail.stdout.take().unwrap());
    let listener = thread::spawn(move || out.lines().map_while(Result::ok).for_each(|l| drop(heard.send(l))));
    let spoken = wait_for(Duration::from_secs(10), || {
        ann.prints(&["send", "Ducks", "general", "hello", "ducks"]);
        lines.recv_timeout(Duration::from_secs(1)).ok()
    });
    let spoken = spoken.expect("tail prints what is said");
    println!("  {spoken}");
    assert!(spoken.contains("Ducks") && spoken.contains("ann") && spoken.ends_with("hello ducks"), "{spoken}");
    tail.kill().unwrap();
    tail.wait().unwrap();
    listener.join().unwrap();

    let last = bob.prints(&["read", "Ducks", "general", "-n", "1"]);
    assert!(last.contains("hello ducks") && last.lines().count() == 1, "{last}");
    let json = bob.prints(&["read", "Ducks", "general", "-n", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let message = json["messages"][0]["id"].as_str().unwrap();
    bob.prints(&["react", "Ducks", message, "yes"]);
    bob.prints(&["send", "Ducks", "general", "a reply", "--reply", &message[..12]]);
    ann.prints(&["edit", "Ducks", message, "hello,", "all", "ducks"]);
    let seen = || Some(bob.prints(&["show", "Ducks", message])).filter(|l| l.contains("hello, all ducks"));
    wait_for(Duration::from_secs(10), seen).expect("the edit arrives");
    assert!(bob.prints(&["search", "Ducks", "all", "ducks"]).contains("hello, all ducks"));
    assert!(bob.fails(&["ban", "Ducks", "ann"]).contains("takes a Moderator"));
    assert!(bob.fails(&["grant", "Ducks", "ann", "founder"]).contains("moderator, powernode"));
    ann.prints(&["grant", "Ducks", "bob", "moderator"]);
    let members = || Some(bob.prints(&["members", "Ducks"])).filter(|m| m.contains("moderator"));
    println!("  {}", wait_for(Duration::from_secs(10), members).expect("bob is a moderator").replace('\n', "\n  "));
    ann.prints(&["ban", "Ducks", "bob", "--reason", "it's a test", "--purge"]);
    assert!(ann.prints(&["audit", "Ducks"]).contains("it's a test"));
    let out = || Some(bob.prints(&["status"])).filter(|s| s.contains(&format!("banned from  {id}")));
    println!("  {}", wait_for(Duration::from_secs(10), out).expect("bob's node knows").replace('\n', "\n  "));
    assert!(bob.fails(&["join", "Ducks", "--nick", "bob"]).contains("UNBAN"));

    // A third device gets bob's identity.
    let third = &all[2];
    let mut link = third.daemon.command(&third.host);
    link.args(["chat", "identity", "link", "--socket"]).arg(third.daemon.socket()).env("AEGISRAY_CHAT_PASSWORD", WORDS);
    let mut link = link.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said =
        BufReader::new(link.stdout.take().unwrap()).lines().map_while(Result::ok).inspect(|line| println!("  {line}"));
    // Codes come with the names of nodes as far as those are known yet.
    let line = said.find(|line| line.starts_with("bob ")).expect("a code for bob's node");
    let given = bob.prints(&["identity", "allow", line.split(' ').next_back().unwrap()]);
    assert!(given.starts_with("third has your identity"), "{given}");
    let asked = format!("bob says that you typed in {}", line.split(' ').next_back().unwrap());
    assert!(said.any(|line| line.starts_with(&asked)), "the new device asks whether it was that one");
    link.stdin.take().unwrap().write_all(b"yes\n").unwrap();
    assert!(said.any(|line| line.contains("this device has the identity")) && link.wait().unwrap().success());
    let identity = |who: &Person| who.prints(&["status"]).lines().next().map(str::to_owned);
    assert_eq!(identity(third), identity(bob));

    bob.prints(&["lock"]);
    assert!(bob.fails(&["found", "Geese", "--nick", "bob"]).contains("aegisray chat unlock"));
    bob.prints(&["unlock"]);
    bob.prints(&["add-relay", "wss://relay.example.test"]);
    assert!(bob.prints(&["peers"]).contains("wss://relay.example.test"));
    bob.prints(&["remove-relay", "wss://relay.example.test"]);
    assert!(bob.prints(&["page"]).starts_with("http://127.0.0.1:8006/#"));
    assert!(bob.fails(&["send", "Geese", "general", "hi"]).contains("no platform `Geese`"));
}
