//! `aegisray chat`.

mod files;
mod print;
mod simulate;

use std::{
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use clap::{Args, Subcommand};

use super::{Failure, hint, show::print_json};
use crate::{
    api::{self, Response},
    chatd::{self, Answer, Request, request::Happened},
};

/// How long codes are good.
const LINK_TIME: Duration = Duration::from_secs(600);
/// Holds the master password where no person is there to type it.
const PASSWORD: &str = "AEGISRAY_CHAT_PASSWORD";

#[derive(Args)]
pub(super) struct ChatArgs {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: ChatCommand,
}

#[derive(Subcommand)]
enum ChatCommand {
    /// Your identity: 24 words, a master password, and the key of this device
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Open the identity with the master password
    Unlock,
    /// Print the address of the page, with the token that lets you in: open it in a browser on this machine
    Page,
    /// Say something
    Send {
        platform: String,
        channel: String,
        /// What; `-` reads it from the standard input
        #[arg(required_unless_present = "file")]
        text: Vec<String>,
        /// The beginning of the id of the message that this answers
        #[arg(long, value_name = "MESSAGE")]
        reply: Option<String>,
        /// A file that goes with it; may be given several times
        #[arg(long, value_name = "PATH")]
        file: Vec<PathBuf>,
    },
    /// Fetch the files of a message
    Get {
        platform: String,
        message: String,
        /// Where to
        #[arg(long, default_value = ".", value_name = "DIR")]
        to: PathBuf,
    },
    /// Say something of yours otherwise
    Edit {
        platform: String,
        message: String,
        /// What; `-` reads it from the standard input
        #[arg(required = true)]
        text: Vec<String>,
    },
    /// Find words
    Search {
        platform: String,
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Print what is said from now on
    Tail {
        /// On this platform alone
        platform: Option<String>,
    },
    #[command(flatten)]
    Other(Request),
    /// Measure what taking in, keeping, reading and comparing many messages costs here
    Bench {
        #[arg(long, default_value_t = 100_000)]
        messages: usize,
        /// As a relay: without the index of words
        #[arg(long)]
        relay: bool,
        /// A directory on the disk in question; what is made there is deleted again
        #[arg(long, default_value = ".", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Run many replicas of a platform over a network that loses, repeats, reorders and splits, and compare what all see
    Simulate(simulate::SimulateArgs),
}

#[derive(Subcommand)]
enum IdentityCommand {
    /// Make one; prints its 24 words, which nothing else keeps
    New,
    /// Bring one back by its 24 words, on a new device; they are read from the standard input
    Restore,
    /// On a new device: get the identity from another one of yours in the mesh; prints the code to type in there
    Link,
    /// On a device that has it: give the identity to the new one that shows this code
    Allow { code: String },
    /// Print its 24 words again
    Words,
    /// Change the master password
    Password,
}

pub(super) fn run(args: &ChatArgs, socket: impl Fn() -> Result<PathBuf, Failure>) -> Result<(), Failure> {
    let request = match &args.command {
        ChatCommand::Simulate(simulate) => return simulate::run(simulate, args.json),
        ChatCommand::Bench { messages, relay, dir } => return bench(*messages, *relay, dir, args.json),
        ChatCommand::Tail { platform } => return tail(&socket()?, platform.as_deref(), args.json),
        ChatCommand::Identity(IdentityCommand::New) => Request::IdentityNew { password: new_password()?, words: None },
        ChatCommand::Identity(IdentityCommand::Restore) => {
            let password = new_password()?;
            eprintln!("The 24 words:");
            let mut words = String::new();
            std::io::stdin().read_line(&mut words)?;
            Request::IdentityNew { password, words: Some(words.trim().to_owned()) }
        }
        ChatCommand::Identity(IdentityCommand::Password) => {
            Request::Password { old: password("Master password: ")?, new: rpassword::prompt_password("New one: ")? }
        }
        ChatCommand::Identity(IdentityCommand::Link) => return link(&socket()?, new_password()?),
        ChatCommand::Identity(IdentityCommand::Allow { code }) => {
            Request::LinkAllow { code: code.clone(), password: password("Master password: ")? }
        }
        ChatCommand::Identity(IdentityCommand::Words) => Request::Words { password: password("Master password: ")? },
        ChatCommand::Unlock => Request::Unlock { password: password("Master password: ")? },
        ChatCommand::Page => Request::Page,
        ChatCommand::Get { platform, message, to } => {
            let paths = files::fetch(&socket()?, platform, message, to)?;
            if args.json {
                return print_json(&paths);
            }
            paths.iter().for_each(|path| println!("{}", path.display()));
            return Ok(());
        }
        ChatCommand::Send { platform, channel, text: words, reply, file: files } => {
            let (platform, channel, reply_to) = (platform.clone(), channel.clone(), reply.clone());
            let files = files::hand_in(&socket()?, files)?;
            Request::Send { platform, channel, text: text(words)?, reply_to, files }
        }
        ChatCommand::Edit { platform, message, text: words } => {
            Request::Edit { platform: platform.clone(), message: message.clone(), text: text(words)? }
        }
        ChatCommand::Search { platform, words } => {
            Request::Search { platform: platform.clone(), words: words.join(" "), limit: None }
        }
        ChatCommand::Other(request) => request.clone(),
    };
    let answer = ask(&socket()?, request)?;
    if args.json { print_json(&answer) } else { print::answer(&answer) }
}

fn bench(messages: usize, relay: bool, dir: &Path, json: bool) -> Result<(), Failure> {
    let dir = dir.join(format!("aegisray-chat-bench-{}", std::process::id()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let figures = chatd::bench::run(&dir, messages, relay, now.as_millis() as u64);
    std::fs::remove_dir_all(&dir)?;
    let f = figures?;
    if json {
        return print_json(&f);
    }
    println!("{} messages of 64 authors", f.messages);
    println!("  signatures checked         {:>9.0} a second on one processor", f.verified_per_s);
    println!("  taken in, on the disk      {:>9.0} a second", f.durable_per_s);
    println!("  on the disk                {:>9.0} bytes each", f.bytes_per_message);
    println!("  a page of 50               {:>9.2} ms", f.page_ms);
    println!("  two words found            {:>9.2} ms", f.search_ms);
    println!("  compared with an equal set {:>9.1} ms, both sides", f.compare_ms);
    println!(
        "  50 and 50 that differ      {:>9.1} ms of both sides, their sets being made; {} bytes in {} rounds",
        f.compared.ms, f.compared.bytes, f.compared.rounds
    );
    println!("  memory                     {:>9.1} MiB", f.rss_mib);
    Ok(())
}

fn ask(socket: &Path, request: Request) -> Result<Answer, Failure> {
    match api::request(socket, &api::Request::Chat { ask: Box::new(request) }) {
        Ok(Response::Chat { answer }) => match *answer {
            Answer::Error { message } => Err(Failure::Other(anyhow::anyhow!("{message}"))),
            answer => Ok(answer),
        },
        Ok(_) => Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program"))),
        Err(e) => Err(Failure::Other(hint(e))),
    }
}

/// Asks for the identity of another device, and says what to type in there until it is here.
fn link(socket: &Path, password: String) -> Result<(), Failure> {
    ask(socket, Request::LinkNew { password })?;
    eprintln!("At a device of yours that has the identity, type in the line beside its name:");
    let mut said = Vec::new();
    let deadline = Instant::now() + LINK_TIME;
    while Instant::now() < deadline {
        let Answer::Codes { codes } = ask(socket, Request::LinkCodes)? else {
            return Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program")));
        };
        for code in codes.iter().filter(|code| !said.contains(*code)) {
            if !code.given {
                println!("{:<20} aegisray chat identity allow {}", code.node, code.code);
                continue;
            }
            // Anybody in the mesh can give this device an identity: only the person knows whether it was theirs.
            println!(
                "{} says that you typed in {} there, and that it was accepted. Is that so? (yes/no)",
                code.node, code.code
            );
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            if line.trim() == "yes" {
                ask(socket, Request::LinkTake { code: code.code.clone() })?;
                println!("this device has the identity now");
                return Ok(());
            }
        }
        said = codes;
        std::thread::sleep(Duration::from_millis(300));
    }
    Err(Failure::Other(anyhow::anyhow!("no device has given it within ten minutes: try again")))
}

/// The master password, from the environment or the terminal.
fn password(prompt: &str) -> Result<String, Failure> {
    if let Ok(password) = std::env::var(PASSWORD) {
        return Ok(password);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Other(anyhow::anyhow!("no terminal to ask for the password: set {PASSWORD}")));
    }
    Ok(rpassword::prompt_password(prompt)?)
}

fn new_password() -> Result<String, Failure> {
    let first = password("New master password: ")?;
    if std::env::var_os(PASSWORD).is_none() && password("The same again: ")? != first {
        return Err(Failure::Other(anyhow::anyhow!("the two are not the same")));
    }
    Ok(first)
}

fn text(words: &[String]) -> Result<String, Failure> {
    if words != ["-"] {
        return Ok(words.join(" "));
    }
    let mut text = String::new();
    std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// Prints what is said, until it is interrupted.
fn tail(socket: &Path, platform: Option<&str>, json: bool) -> Result<(), Failure> {
    let Answer::Events { mut last, .. } = ask(socket, Request::Events { after: u64::MAX })? else {
        return Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program")));
    };
    let mut seen: std::collections::HashSet<String> = std::collections::HashSet::new();
    loop {
        let Answer::Events { last: now, events } = ask(socket, Request::Events { after: last })? else { continue };
        last = now;
        let Answer::Platforms { platforms } = ask(socket, Request::Platforms)? else { continue };
        for event in events {
            if json {
                println!("{}", serde_json::to_string(&event)?);
                continue;
            }
            match event {
                Happened::Message { entry } => {
                    let place = platforms.iter().find(|p| p.id == entry.platform);
                    let wanted = |p: &str| place.is_some_and(|x| x.name.eq_ignore_ascii_case(p) || x.id.starts_with(p));
                    // What changes about a message that was printed is not said again.
                    if platform.is_none_or(wanted) && seen.insert(entry.id.clone()) {
                        let channel = place.and_then(|p| p.channels.iter().find(|c| c.id == entry.channel));
                        let names = (place.map(|p| p.name.as_str()), channel.map(|c| c.name.as_str()));
                        println!("{}  {}", print::place(names), print::line(&entry));
                    }
                }
                Happened::Banned { platform } => {
                    println!("you are banned from {}: what was here of it is deleted", &platform[..8])
                }
                Happened::Unbanned { platform } => println!("you may join {} again", &platform[..8]),
                Happened::Invited { nick, direct: true, .. } => {
                    println!("{nick} begins a conversation with you: @{nick}")
                }
                Happened::Invited { platform, nick, name, .. } => {
                    println!("{nick} invites you to {name}: `aegisray chat join {} --nick NAME`", &platform[..8]);
                }
                Happened::Platform { .. } | Happened::Signal { .. } => {}
            }
        }
    }
}
