//! People, each at a node of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aegisray::{
    api::{Request, Response},
    chatd::{
        Answer, Request as Ask,
        request::{Entry, Happened, State},
    },
    lab::{
        daemon::{Daemon, wait_for},
        topology::{Host, Internet},
    },
};

use super::{
    harness::{Dir, bootstrap, need, need_route, node, program, quiet},
    running::Running,
};

pub const PASSWORD: &str = "correct horse battery";
pub const PLATFORM: &str = "Ducks";
const HUB: &str = "203.0.113.1";
pub const RELAY: &str = "203.0.113.100";
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody with a daemon.
pub struct Person {
    pub daemon: Daemon,
    pub host: Host,
}

/// What the configuration says about the chat.
pub fn chat(dir: &Dir) -> String {
    let file = dir.0.join("password");
    if !file.exists() {
        fs::write(&file, PASSWORD).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    format!("chat:\n  enabled: true\n  password_file: {}\n", file.display())
}

/// A relay of the chat at [`RELAY`], which keeps everything in the first path; with these options.
pub fn relay(internet: &mut Internet, kept: &Path, options: &[&str]) -> Running {
    let server = internet.public(RELAY.parse().unwrap()).unwrap();
    let mut command = server.ns.command(program());
    Running::start({
        command.args(["chat-relay", "--dir"]).arg(kept).args(options);
        command
    })
}

/// People of one mesh, the first of them at its meeting point; each has an identity, and knows the way to all others.
pub fn people(dir: &Dir, internet: &mut Internet, names: &[&str]) -> Vec<Person> {
    let out = people_without_identity(dir, internet, names, "  page: 0\n");
    out.iter().for_each(|one| one.done_with_identity(PASSWORD));
    out
}

/// The same, without identities; `more` is about their chat.
pub fn people_without_identity(dir: &Dir, internet: &mut Internet, names: &[&str], more: &str) -> Vec<Person> {
    let mut out: Vec<Person> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let host = internet.public(format!("203.0.113.{}", n + 1).parse().unwrap()).unwrap();
        let meets = if n == 0 { quiet() } else { bootstrap(HUB) };
        let mut daemon = node(dir, name, &(meets + &chat(dir) + more));
        daemon.start(&host).unwrap();
        need(&daemon, "status", || daemon.status());
        out.push(Person { daemon, host });
    }
    for a in &out {
        names.iter().filter(|b| **b != a.daemon.name).for_each(|b| drop(need_route(&a.daemon, b)));
    }
    out
}

impl Person {
    pub fn start(&mut self) {
        self.daemon.start(&self.host).unwrap();
        need(&self.daemon, "status", || self.daemon.status());
    }

    pub fn ask(&self, ask: Ask) -> Answer {
        match self.daemon.ask(&Request::Chat { ask: Box::new(ask) }) {
            Ok(Response::Chat { answer }) => *answer,
            other => panic!("{}: {other:?}\n{}", self.daemon.name, self.daemon.log_tail()),
        }
    }

    /// Does something; returns the id of what came of it.
    pub fn done(&self, ask: Ask) -> String {
        match self.ask(ask.clone()) {
            Answer::Id { id } | Answer::Joining { platform: id } => id,
            Answer::Done => String::new(),
            other => panic!("{}: {ask:?}: {other:?}", self.daemon.name),
        }
    }

    /// Makes an identity.
    pub fn done_with_identity(&self, password: &str) {
        let new = Ask::IdentityNew { password: password.to_owned(), words: None };
        assert!(matches!(self.ask(new), Answer::Identity { .. }));
    }

    pub fn refused(&self, ask: Ask) -> String {
        match self.ask(ask.clone()) {
            Answer::Error { message } => message,
            other => panic!("{}: {ask:?}: {other:?}", self.daemon.name),
        }
    }

    pub fn add_relay(&self, url: &str) {
        self.done(Ask::AddRelay { url: url.to_owned() });
    }

    pub fn found(&self) -> String {
        self.done(Ask::Found { name: PLATFORM.to_owned(), nick: self.daemon.name.clone(), private: false })
    }

    /// Joins, as soon as somebody offers it.
    pub fn join(&self) {
        let join = || Ask::Join { platform: PLATFORM.to_owned(), nick: self.daemon.name.clone() };
        let begun = wait_for(PATIENCE, || (!matches!(self.ask(join()), Answer::Error { .. })).then_some(()));
        begun.unwrap_or_else(|| panic!("{}: {}", self.daemon.name, self.refused(join())));
        need(&self.daemon, "the platform", || match self.ask(Ask::Platforms) {
            Answer::Platforms { platforms } => platforms.iter().any(|p| !p.channels.is_empty()).then_some(()),
            _ => None,
        });
    }

    pub fn say(&self, text: &str) -> String {
        self.say_at(PLATFORM, text)
    }

    pub fn say_at(&self, platform: &str, text: &str) -> String {
        let (platform, channel) = (platform.to_owned(), "general".to_owned());
        self.done(Ask::Send { platform, channel, text: text.to_owned(), reply_to: None, files: Vec::new() })
    }

    pub fn read(&self) -> Vec<Entry> {
        self.read_at(PLATFORM)
    }

    /// The last messages of a platform's first channel.
    pub fn read_at(&self, platform: &str) -> Vec<Entry> {
        let (platform, channel) = (platform.to_owned(), "general".to_owned());
        match self.ask(Ask::Read { platform, channel, before: None, after: None, limit: Some(500) }) {
            Answer::Messages { messages, .. } => messages,
            Answer::Error { .. } => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    pub fn texts(&self) -> Vec<String> {
        self.texts_at(PLATFORM)
    }

    pub fn texts_at(&self, platform: &str) -> Vec<String> {
        let text = |e: Entry| if e.state == State::Text { e.text } else { format!("{:?}", e.state) };
        self.read_at(platform).into_iter().map(text).collect()
    }

    /// Waits until this is what is read.
    #[track_caller]
    pub fn need_texts(&self, platform: &str, expected: &[&str]) {
        let same = wait_for(PATIENCE, || (self.texts_at(platform) == expected).then_some(()));
        let (name, log) = (&self.daemon.name, self.daemon.log_tail());
        assert!(same.is_some(), "{name}: {:?}, expected {expected:?}\n{log}", self.texts_at(platform));
    }

    /// Waits until somebody else has the last message.
    pub fn has_copies(&self, platform: &str) {
        let kept = || (self.read_at(platform).last()?.copies >= 1).then_some(());
        wait_for(PATIENCE, kept).expect("somebody has it");
    }

    /// Waits until a text is here.
    #[track_caller]
    pub fn need_text(&self, text: &str) {
        let here = wait_for(PATIENCE, || self.texts().iter().any(|t| t == text).then_some(()));
        assert!(here.is_some(), "{}: no `{text}` in {:?}\n{}", self.daemon.name, self.texts(), self.daemon.log_tail());
    }

    /// Waits until an act of this kind is here and counts.
    #[track_caller]
    pub fn until_audit(&self, act: &str) {
        let here = wait_for(PATIENCE, || match self.ask(Ask::Audit { platform: PLATFORM.to_owned() }) {
            Answer::Audit { acts } => acts.iter().any(|a| a.act == act && a.good).then_some(()),
            _ => None,
        });
        here.unwrap_or_else(|| panic!("{}: no {act}", self.daemon.name));
    }

    /// The number of the last event.
    pub fn last_event(&self) -> u64 {
        match self.ask(Ask::Events { after: u64::MAX }) {
            Answer::Events { last, .. } => last,
            other => panic!("{other:?}"),
        }
    }

    /// When a message is seen here, for the first time after an event.
    pub fn sees(&self, mut after: u64, text: &str) -> Instant {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let Answer::Events { last, events } = self.ask(Ask::Events { after }) else { panic!() };
            after = last;
            if events.iter().any(|e| matches!(e, Happened::Message { entry } if entry.text == text)) {
                return Instant::now();
            }
        }
        panic!("{} does not see `{text}`\n{}", self.daemon.name, self.daemon.log_tail())
    }

    /// Files of this node in which these bytes are.
    pub fn grep(&self, needle: &str) -> Vec<PathBuf> {
        files_with(&self.daemon.dir, needle)
    }
}

/// Files in and beneath a directory in which these bytes are.
pub fn files_with(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for path in fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            out.extend(files_with(&path, needle));
        } else if fs::read(&path).is_ok_and(|b| b.windows(needle.len()).any(|w| w == needle.as_bytes())) {
            out.push(path);
        }
    }
    out
}
