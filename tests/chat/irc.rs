//! A real IRC client before the gateway.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use aegisray::{
    chatd::Request as Ask,
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    harness::Dir,
    people::{PASSWORD, PLATFORM, Person, people_without_identity},
    running::Running,
};

/// irssi on a terminal of its own.
struct Irssi {
    _process: Running,
    keys: ChildStdin,
    screen: PathBuf,
}

impl Irssi {
    fn start(dir: &Dir, person: &Person, token: &str) -> Self {
        let home = dir.0.join(format!("irssi-{}", person.daemon.name));
        fs::create_dir_all(&home).unwrap();
        let settings = format!(
            "settings = {{ core = {{ nick = \"{0}\"; user_name = \"{0}\"; real_name = \"{0}\"; }}; }};\n",
            person.daemon.name
        );
        fs::write(home.join("config"), settings).unwrap();
        let irssi = format!("irssi --home={} --connect=127.0.0.1 --port=6667 --password={token}", home.display());
        let irssi = format!("stty cols 220 rows 60; exec {irssi}");
        let screen = home.join("screen");
        let mut command: Command = person.host.ns.command("script");
        command.args(["-qfc", &irssi]).arg(&screen).env("TERM", "xterm");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        Self { _process: Running(child), keys, screen }
    }

    fn type_in(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    #[track_caller]
    fn need(&self, text: &str) {
        let seen = wait_for(Duration::from_secs(15), || self.shown().contains(text).then_some(()));
        assert!(seen.is_some(), "irssi shows no `{text}`:\n{}", self.shown());
    }

    /// All that it has drawn, without where and in which colour.
    fn shown(&self) -> String {
        let drawn = fs::read(&self.screen).unwrap_or_default();
        let text = String::from_utf8_lossy(&drawn);
        let mut parts = text.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        let plain = |part: &str| match part.strip_prefix('[') {
            Some(rest) => {
                rest.split_once(|c: char| c.is_ascii_alphabetic()).map(|(_, t)| t.to_owned()).unwrap_or_default()
            }
            None => part.chars().skip(2).collect(),
        };
        first + &parts.map(plain).collect::<String>()
    }
}

pub fn irssi() {
    if !Path::new("/usr/bin/irssi").exists() {
        println!("  not tried: no irssi on this machine");
        return;
    }
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let all = people_without_identity(&dir, &mut internet, &["ann", "bob"], "  page: 0\n  irc: 6667\n");
    for one in &all {
        one.done_with_identity(PASSWORD);
    }
    all[0].found();
    all[1].join();
    all[0].say("said before");
    all[1].need_text("said before");
    let token = fs::read_to_string(all[1].daemon.dir.join("state/chat/token")).unwrap();
    let mut wrong = Irssi::start(&dir, &all[0], "wrong");
    wrong.need("the password is what");
    wrong.type_in("/quit");
    let mut irssi = Irssi::start(&dir, &all[1], &token);
    irssi.need("Act: 2");
    irssi.type_in("/window 2");
    irssi.need("#Ducks/general");
    irssi.need("said before");
    irssi.type_in("/msg #Ducks/general hello from irssi");
    all[0].need_text("hello from irssi");
    all[0].say("hello irssi");
    irssi.need("hello irssi");
    let purged = all[0].say("a secret of mine");
    irssi.need("a secret of mine");
    all[0].done(Ask::Retract { platform: PLATFORM.into(), message: purged });
    irssi.need("a message of ann was purged");
    // Who may not kick is told so; who may, bans.
    irssi.type_in("/quote KICK #Ducks/general ann :out");
    irssi.need("that takes a Moderator");
    all[0].done(Ask::Ban { platform: PLATFORM.into(), who: "bob".into(), reason: "enough".into(), purge: false });
    irssi.need("was kicked from #Ducks/general by aegis");
    println!("  irssi showed what was said before and since, what was purged, and the kick that the ban is");
}
