//! What the chat's answers look like on a terminal.

use std::time::{Duration, SystemTime};

use super::super::{Failure, table::table};
use crate::chatd::{
    Answer,
    request::{Entry, Role, State},
};

/// Prints an answer.
pub(super) fn answer(answer: &Answer) -> Result<(), Failure> {
    match answer {
        // The rest is for programs.
        Answer::Done
        | Answer::Events { .. }
        | Answer::Error { .. }
        | Answer::Codes { .. }
        | Answer::Upload { .. }
        | Answer::Piece { .. }
        | Answer::Fetching { .. } => {}
        Answer::Linked { node } => {
            println!("{node} has your identity now: if that is no device of yours, tell all who know you")
        }
        Answer::Id { id: line } | Answer::Page { url: line } => println!("{line}"),
        Answer::Joining { platform } => {
            println!("{platform}: joining; it is in `aegisray chat platforms` once its first messages are here");
        }
        Answer::Identity { words } => {
            println!("Write these 24 words down, in this order. With them alone your identity can be brought back:\n");
            let words: Vec<&str> = words.split(' ').collect();
            for (n, row) in words.chunks(6).enumerate() {
                let numbered = row.iter().enumerate().map(|(i, word)| format!("{:>2} {word:<10}", n * 6 + i + 1));
                println!("  {}", numbered.collect::<String>().trim_end());
            }
        }
        Answer::Status(s) => {
            let none = || "none yet: `aegisray chat identity new`".to_owned();
            println!("identity     {}", s.identity.clone().unwrap_or_else(none));
            if s.identity.is_some() {
                println!("device       {}", s.device.clone().unwrap_or_default());
                println!("unlocked     {}", if s.unlocked { "yes" } else { "no: `aegisray chat unlock`" });
            }
            println!("platforms    {}", s.platforms);
            println!("peers        {}", s.peers);
            if s.pending > 0 {
                println!("on the way   {} messages", s.pending);
            }
            for id in &s.banned_from {
                println!("banned from  {id}");
            }
        }
        Answer::Platforms { platforms } => {
            for p in platforms {
                let kind = match (p.direct, p.private) {
                    (true, _) => ", a conversation of two, sealed",
                    (_, true) => ", private, sealed",
                    _ => "",
                };
                println!("{} ({}): {}, {} members{kind}", p.name, &p.id[..8], role(p.role), p.members);
                for c in &p.channels {
                    let unread = match (c.unread, c.mentions) {
                        (0, _) => String::new(),
                        (n, 0) => format!("  {n} unread"),
                        (n, m) => format!("  {n} unread, {m} to you"),
                    };
                    let archived = if c.archived { "  archived" } else { "" };
                    println!("  #{:<20} {}{unread}{archived}", c.name, c.topic);
                }
            }
        }
        Answer::Offers { offers } => {
            let rows: Vec<Vec<String>> = offers
                .iter()
                .map(|o| {
                    let standing = if o.banned {
                        "banned"
                    } else if o.joined {
                        "yes"
                    } else {
                        ""
                    };
                    let members = match &o.by {
                        Some(by) => format!("by invitation of {by}"),
                        None => o.members.to_string(),
                    };
                    vec![o.name.clone(), members, standing.to_owned(), o.id.clone()]
                })
                .collect();
            print!("{}", table(&["PLATFORM", "MEMBERS", "JOINED", "ID"], &rows));
        }
        Answer::Messages { messages, .. } => messages.iter().for_each(|m| println!("{}", line(m))),
        Answer::Members { members } => {
            let rows: Vec<Vec<String>> = members
                .iter()
                .map(|m| {
                    let own = if m.own { " (you)" } else { "" };
                    let standing = if m.banned { "banned" } else { role(m.role) };
                    vec![format!("{}{own}", m.nick), standing.to_owned(), m.id.clone()]
                })
                .collect();
            print!("{}", table(&["NICK", "ROLE", "IDENTITY"], &rows));
        }
        Answer::Audit { acts } => {
            for a in acts {
                let reason = if a.reason.is_empty() { String::new() } else { format!(" ({})", a.reason) };
                let void = if a.good { "" } else { "  [does not count]" };
                println!("{}  {} {} {}{reason}{void}", time(a.time_ms), a.nick, a.act, a.target);
            }
        }
        Answer::Peers { peers, relays, known } => {
            let rows: Vec<Vec<String>> = peers
                .iter()
                .map(|p| {
                    let kind = if p.relay { "relay" } else { "node" };
                    let pending = if p.pending > 0 { p.pending.to_string() } else { String::new() };
                    vec![p.name.clone(), kind.to_owned(), p.received.to_string(), pending, p.platforms.join(", ")]
                })
                .collect();
            print!("{}", table(&["PEER", "KIND", "RECEIVED", "PENDING", "PLATFORMS"], &rows));
            for url in relays.iter().filter(|url| peers.iter().all(|p| p.name != **url)) {
                println!("{url}  not reached");
            }
            known.iter().for_each(|url| println!("{url}  others know this relay"));
        }
    }
    Ok(())
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Moderator => "moderator",
        Role::Powernode => "powernode",
        Role::Founder => "founder",
    }
}

/// The name of a place.
pub(super) fn place((platform, channel): (Option<&str>, Option<&str>)) -> String {
    format!("{}#{}", platform.unwrap_or("?"), channel.unwrap_or("?"))
}

/// A message on one line, or more where it has more.
pub(super) fn line(m: &Entry) -> String {
    let text = match m.state {
        State::Text => m.lines().replace('\n', "\n             "),
        State::Absent => "[not here yet]".to_owned(),
        State::Sealed => "[sealed: the secret is not here]".to_owned(),
        State::Purged => "[Purged by Powernode]".to_owned(),
        State::Hidden => "[hidden]".to_owned(),
    };
    let mut marks = String::new();
    for (is_so, mark) in
        [(m.edited, " (edited)"), (m.late, " (arrived late)"), (m.forked, " (its device contradicts itself)")]
    {
        if is_so {
            marks += mark;
        }
    }
    for r in &m.reactions {
        marks += &format!(" {}{}", r.what, r.who.len());
    }
    let answers = m.reply_to.as_ref().map(|id| format!(" > {}", &id[..8])).unwrap_or_default();
    let sent = match (m.own, m.copies) {
        (false, _) => String::new(),
        (true, 0) => "  [queued]".to_owned(),
        (true, n) => format!("  [sent to {n}]"),
    };
    format!("{}  {} <{}>{answers} {}{marks}{sent}", time(m.time_ms), &m.id[..8], m.nick, printable(&text))
}

/// Others' text is not to move the cursor or change colours.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// UTC.
fn time(ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).filter(|_| ms < 1 << 47);
    // RFC 9110's form: "Sun, 22 Nov 2026 07:50:12 GMT".
    let text = at.map(httpdate::fmt_http_date).unwrap_or_default();
    text.get(5..25).unwrap_or("?").to_owned()
}
