//! `aegisray chat`.

mod print;
mod simulate;

use std::{
    io::{IsTerminal as _, Read as _},
    path::Path,
};

use clap::{Args, Subcommand};

use super::{Failure, hint, show::print_json};
use crate::{
    api::{self, Response},
    chatd::{
        self, Answer, Request,
        request::{Happened, Role},
    },
};

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
    /// Who this is, and how things are
    Status,
    /// Print the address of the page, with the token that lets you in: open it in a browser on this machine
    Page,
    /// Your identity: 24 words, a master password, and the key of this device
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Open the identity with the master password
    Unlock,
    /// Forget the password until the next `unlock`
    Lock,
    /// Make a platform: you are its founder
    Found {
        name: String,
        #[command(flatten)]
        nick: Nick,
    },
    /// Platforms that others offer
    Discover,
    /// Take part in a platform
    Join {
        /// Its name as `discover` shows it, or its id
        platform: String,
        #[command(flatten)]
        nick: Nick,
    },
    /// Take part no longer, and delete what is here of it
    Leave {
        platform: String,
    },
    /// Platforms you take part in, with channels and what is unread
    Platforms,
    /// Make a channel, or change it
    Channel {
        platform: String,
        name: String,
        #[arg(long)]
        topic: Option<String>,
        #[arg(long)]
        rename: Option<String>,
        /// `true`: nobody writes there any more
        #[arg(long)]
        archived: Option<bool>,
    },
    /// Call the platform something else
    Rename {
        platform: String,
        name: String,
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Call yourself something else
    Nick {
        platform: String,
        nick: String,
    },
    /// Say something
    Send {
        platform: String,
        channel: String,
        /// What; `-` reads it from the standard input
        #[arg(required = true)]
        text: Vec<String>,
        /// The beginning of the id of the message that this answers
        #[arg(long, value_name = "MESSAGE")]
        reply: Option<String>,
    },
    /// Say something of yours otherwise
    Edit {
        platform: String,
        message: String,
        #[arg(required = true)]
        text: Vec<String>,
    },
    /// React to a message
    React {
        platform: String,
        message: String,
        reaction: String,
    },
    /// Take back a message of yours: its bytes are deleted everywhere
    Retract {
        platform: String,
        message: String,
    },
    /// Read a channel
    Read {
        platform: String,
        channel: String,
        /// How many messages
        #[arg(short, long, default_value_t = 20)]
        number: usize,
        /// Those before this message
        #[arg(long, value_name = "MESSAGE")]
        before: Option<String>,
    },
    /// Print what is said from now on
    Tail {
        /// On this platform alone
        platform: Option<String>,
    },
    /// Find words
    Search {
        platform: String,
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Who is there
    Members {
        platform: String,
    },
    /// Give somebody a role
    Grant {
        platform: String,
        who: String,
        role: GrantRole,
    },
    /// Take somebody's role
    Revoke {
        platform: String,
        who: String,
    },
    /// Shut somebody out: their node deletes the platform, and nobody takes messages of theirs any more
    Ban {
        platform: String,
        who: String,
        #[arg(long, default_value = "")]
        reason: String,
        /// What they wrote before goes too
        #[arg(long)]
        purge: bool,
    },
    Unban {
        platform: String,
        who: String,
    },
    /// Let somebody talk to nobody: they see their messages, all others don't
    ShadowBan {
        platform: String,
        who: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
    Unshadow {
        platform: String,
        who: String,
    },
    /// Delete the bytes of messages everywhere
    Tombstone {
        platform: String,
        #[arg(required = true)]
        messages: Vec<String>,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// As the founder: what you know now is final
    Checkpoint {
        platform: String,
    },
    /// Who did what, and whether it counts
    Audit {
        platform: String,
    },
    /// The nodes and relays of the chat that this one talks to
    Peers,
    /// Relays: they keep messages for who is away
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Measure what taking in, keeping, reading and comparing many messages costs here
    Bench {
        #[arg(long, default_value_t = 100_000)]
        messages: usize,
        /// As a relay: without the index of words
        #[arg(long)]
        relay: bool,
        /// A directory on the disk in question; what is made there is deleted again
        #[arg(long, default_value = ".", value_name = "DIR")]
        dir: std::path::PathBuf,
    },
    /// Run many replicas of a platform over a network that loses, repeats, reorders and splits, and compare what all see
    Simulate(simulate::SimulateArgs),
}

#[derive(Args)]
struct Nick {
    /// What you are called there
    #[arg(long)]
    nick: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum GrantRole {
    Moderator,
    Powernode,
}

#[derive(Subcommand)]
enum IdentityCommand {
    /// Make one; prints its 24 words, which nothing else keeps
    New,
    /// Bring one back by its 24 words, on a new device; they are read from the standard input
    Restore,
    /// Change the master password
    Password,
}

#[derive(Subcommand)]
enum RelayCommand {
    /// Keep a connection to this relay: ws://HOST[:PORT] or wss://HOST[:PORT]
    Add {
        url: String,
    },
    Remove {
        url: String,
    },
}

pub(super) fn run(
    args: &ChatArgs,
    socket: impl FnOnce() -> Result<std::path::PathBuf, Failure>,
) -> Result<(), Failure> {
    if let ChatCommand::Simulate(simulate) = &args.command {
        return simulate::run(simulate, args.json);
    }
    if let ChatCommand::Bench { messages, relay, dir } = &args.command {
        return bench(*messages, *relay, dir, args.json);
    }
    let socket = socket()?;
    if matches!(args.command, ChatCommand::Page) {
        return page(&socket, args.json);
    }
    if let ChatCommand::Tail { platform } = &args.command {
        return tail(&socket, platform.as_deref(), args.json);
    }
    let answer = ask(&socket, request(&args.command)?)?;
    if args.json { print_json(&answer) } else { print::answer(&answer) }
}

fn bench(messages: usize, relay: bool, dir: &Path, json: bool) -> Result<(), Failure> {
    let dir = dir.join(format!("aegisray-chat-bench-{}", std::process::id()));
    let figures = chatd::bench::run(&dir, messages, relay);
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
    println!("  memory                     {:>9.1} MiB", f.rss_mib);
    Ok(())
}

/// The page's address.
fn page(socket: &Path, json: bool) -> Result<(), Failure> {
    let Answer::Status(status) = ask(socket, Request::Status)? else {
        return Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program")));
    };
    let url = status.page.ok_or_else(|| anyhow::anyhow!("this node serves no page: set chat.page to a port"))?;
    if json {
        return print_json(&url);
    }
    println!("{url}");
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

fn request(command: &ChatCommand) -> Result<Request, Failure> {
    Ok(match command {
        ChatCommand::Status => Request::Status,
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
        ChatCommand::Unlock => Request::Unlock { password: password("Master password: ")? },
        ChatCommand::Lock => Request::Lock,
        ChatCommand::Found { name, nick } => Request::Found { name: name.clone(), nick: nick.nick.clone() },
        ChatCommand::Discover => Request::Discover,
        ChatCommand::Join { platform, nick } => Request::Join { platform: platform.clone(), nick: nick.nick.clone() },
        ChatCommand::Leave { platform } => Request::Leave { platform: platform.clone() },
        ChatCommand::Platforms => Request::Platforms,
        ChatCommand::Channel { platform, name, topic, rename, archived } => Request::Channel {
            platform: platform.clone(),
            name: name.clone(),
            topic: topic.clone(),
            rename: rename.clone(),
            archived: *archived,
        },
        ChatCommand::Rename { platform, name, description } => {
            let (platform, name, description) = (platform.clone(), name.clone(), description.clone());
            Request::Rename { platform, name, description }
        }
        ChatCommand::Nick { platform, nick } => Request::Nick { platform: platform.clone(), nick: nick.clone() },
        ChatCommand::Send { platform, channel, text: words, reply } => Request::Send {
            platform: platform.clone(),
            channel: channel.clone(),
            text: text(words)?,
            reply_to: reply.clone(),
        },
        ChatCommand::Edit { platform, message, text: words } => {
            Request::Edit { platform: platform.clone(), message: message.clone(), text: text(words)? }
        }
        ChatCommand::React { platform, message, reaction } => {
            let (platform, message, reaction) = (platform.clone(), message.clone(), reaction.clone());
            Request::React { platform, message, reaction }
        }
        ChatCommand::Retract { platform, message } => {
            Request::Retract { platform: platform.clone(), message: message.clone() }
        }
        ChatCommand::Read { platform, channel, number, before } => Request::Read {
            platform: platform.clone(),
            channel: channel.clone(),
            before: before.clone(),
            after: None,
            limit: Some(*number),
        },
        ChatCommand::Search { platform, words } => {
            Request::Search { platform: platform.clone(), words: words.join(" "), limit: None }
        }
        ChatCommand::Members { platform } => Request::Members { platform: platform.clone() },
        ChatCommand::Audit { platform } => Request::Audit { platform: platform.clone() },
        ChatCommand::Peers => Request::Peers,
        ChatCommand::Relay(RelayCommand::Add { url }) => Request::AddRelay { url: url.clone() },
        ChatCommand::Relay(RelayCommand::Remove { url }) => Request::RemoveRelay { url: url.clone() },
        moderation => moderate(moderation)?,
    })
}

fn moderate(command: &ChatCommand) -> Result<Request, Failure> {
    Ok(match command {
        ChatCommand::Grant { platform, who, role } => {
            let role = if matches!(role, GrantRole::Moderator) { Role::Moderator } else { Role::Powernode };
            Request::Grant { platform: platform.clone(), who: who.clone(), role }
        }
        ChatCommand::Revoke { platform, who } => Request::Revoke { platform: platform.clone(), who: who.clone() },
        ChatCommand::Ban { platform, who, reason, purge } => {
            let (platform, who, reason) = (platform.clone(), who.clone(), reason.clone());
            Request::Ban { platform, who, reason, purge: *purge }
        }
        ChatCommand::Unban { platform, who } => Request::Unban { platform: platform.clone(), who: who.clone() },
        ChatCommand::ShadowBan { platform, who, reason } => {
            Request::ShadowBan { platform: platform.clone(), who: who.clone(), reason: reason.clone() }
        }
        ChatCommand::Unshadow { platform, who } => Request::Unshadow { platform: platform.clone(), who: who.clone() },
        ChatCommand::Tombstone { platform, messages, reason } => {
            let (platform, messages, reason) = (platform.clone(), messages.clone(), reason.clone());
            Request::Tombstone { platform, messages, reason }
        }
        ChatCommand::Checkpoint { platform } => Request::Checkpoint { platform: platform.clone() },
        _ => return Err(Failure::Other(anyhow::anyhow!("this is no question for the daemon"))),
    })
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
                Happened::Platform { .. } => {}
            }
        }
    }
}
