//! Where a token comes from: standard input, a file, or the command line, where others can read it.

use std::{
    fs::File,
    io::{self, BufRead as _, IsTerminal as _, Read},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use zeroize::Zeroizing;

use crate::{
    identity::{Invite, InviteError},
    types::{NEVER_SET, UnixTime, span, utc},
};

/// More than any token and what may stand around it.
const MAX_TEXT: u64 = 64 * 1024;

#[derive(Args)]
pub(super) struct TokenArgs {
    /// What `aegisray invite` printed, or `-` to read it from standard input, which is what happens without: on a command line others
    /// on this machine can read it, and the shell keeps it
    token: Option<String>,
    /// Read the token from a file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// Whether it stands where everybody on this machine can read it.
    fn is_open(&self) -> bool {
        self.token.as_deref().is_some_and(|token| token != "-")
    }
}

/// Reads the token, and what it says.
pub(super) fn read(args: &TokenArgs, now: UnixTime) -> anyhow::Result<Invite> {
    if now < NEVER_SET {
        eprintln!(
            "aegisray: this machine's clock says {}, which can't be: set it, certificates are good or not by it",
            utc(now)
        );
    }
    let invite = match (&args.token, &args.token_file) {
        (_, Some(file)) => Invite::from_token(&from_file(file)?, now)
            .with_context(|| format!("the token in {}", file.display()))
            .map_err(|e| anyhow!("{e:#}"))?,
        (Some(token), None) if args.is_open() => Invite::from_token(token, now)?,
        _ if io::stdin().is_terminal() => ask(&mut io::stdin().lock(), now)?,
        _ => match Invite::from_token(&limited(io::stdin().lock()).context("standard input")?, now) {
            Err(InviteError::Nothing) => bail!(
                "no token on standard input: pipe it in, name a file with --token-file, or give the command on a terminal and paste it"
            ),
            read => read?,
        },
    };
    if args.is_open() {
        eprintln!(
            "aegisray: the token stood on the command line, where others on this machine can read it and the shell keeps it; next time \
             `aegisray join`, which asks for it"
        );
    }
    if let Some(left) = invite.expires.checked_sub(now).filter(|left| *left > A_YEAR) {
        eprintln!(
            "aegisray: this machine's clock says {}, and the token is good for {} more: is the clock right?",
            utc(now),
            span(left)
        );
    }
    Ok(invite)
}

/// No token that is meant well is good for so long.
const A_YEAR: u64 = 366 * 86_400;

fn from_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let file = file.map_err(|e| anyhow!("{e:#} (--token-file)"))?;
    let mode = file.metadata().map_or(0, |m| if m.is_file() { m.permissions().mode() & 0o7777 } else { 0 });
    if mode & 0o077 != 0 {
        eprintln!(
            "aegisray: others can read {} (mode {mode:04o}): remove it, or run `chmod 600` on it",
            path.display()
        );
    }
    limited(file).map_err(|e| anyhow!("cannot read {}: {e} (--token-file)", path.display()))
}

/// A text, whatever bytes are around the token.
fn limited(from: impl Read) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Asks on a terminal: lines, until they have a whole token in them or one is empty.
fn ask(from: &mut impl io::BufRead, now: UnixTime) -> anyhow::Result<Invite> {
    eprint!("Paste the token that `aegisray invite` printed, and press Enter: ");
    let mut text = Zeroizing::new(String::new());
    loop {
        let mut line = Zeroizing::new(String::new());
        let read = from.take(MAX_TEXT).read_line(&mut line).context("standard input")?;
        text.push_str(&line);
        match Invite::from_token(&text, now) {
            Err(InviteError::Damaged(_)) if read > 0 && !line.trim().is_empty() && (text.len() as u64) < MAX_TEXT => {
                eprint!("… and the rest of it, if there is more (or Enter alone): ");
            }
            outcome => return Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_several_lines_is_asked_for_until_it_is_whole() {
        let invite = Invite {
            network: "home".into(),
            secret: Some("s".into()),
            authority: None,
            bootstrap: vec!["192.0.2.1:51900".into(); 8],
            admission: None,
            inviter: None,
            expires: 1000,
            cidr: "100.64.0.0/16".into(),
        };
        let token = invite.to_token();
        let (first, rest) = token.split_at(70);
        let (second, third) = rest.split_at(70);
        let mut typed = io::Cursor::new(format!("{first}\n{second}\n{third}\nnot read\n"));
        assert_eq!(ask(&mut typed, 10).unwrap(), invite);
        assert_eq!(limited(typed).unwrap().as_str(), "not read\n");
        for (typed, expected) in [
            (format!("{first}\n\n{second}{third}\n"), "a part of the token is missing"),
            (format!("{first}\n"), "a part of the token is missing"),
            ("hello\n".to_owned(), "begins with `aegis1-`"),
            (String::new(), "no token"),
        ] {
            let error = ask(&mut io::Cursor::new(typed), 10).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
