//! Lines of IRC (RFC 1459 §2.3; tags as IRCv3 has them).

/// A line from a client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub command: String,
    pub args: Vec<String>,
}

/// Bytes of a line, and of its tags beside that.
pub const MAX_LINE: usize = 512;
pub const MAX_TAGS: usize = 4096;
/// Bytes of text in one line: what is left beside prefix and target.
pub const MAX_TEXT: usize = 350;

impl Line {
    /// Reads a line without its end. `None`: there is nothing on it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let skip = |text: &str, sign: char| match text.strip_prefix(sign) {
            Some(rest) => rest.split_once(' ').map(|(_, rest)| rest.trim_start().to_owned()),
            None => Some(text.to_owned()),
        };
        // Clients' tags and prefixes say nothing here.
        let text = skip(text.trim_start(), '@')?;
        let text = skip(&text, ':')?;
        let (middle, last) = match text.split_once(" :") {
            Some((middle, last)) => (middle, Some(last)),
            None => (text.as_str(), None),
        };
        let mut words = middle.split_ascii_whitespace().map(str::to_owned);
        let command = words.next()?.to_ascii_uppercase();
        Some(Self { command, args: words.chain(last.map(str::to_owned)).collect() })
    }

    /// An argument, or nothing.
    #[must_use]
    pub fn arg(&self, n: usize) -> &str {
        self.args.get(n).map_or("", String::as_str)
    }
}

/// A name as IRC allows it: without what separates or has a meaning there.
#[must_use]
pub fn name(text: &str) -> String {
    let odd = |c: char| c.is_whitespace() || c.is_control() || ",:!@#*?&+%~".contains(c);
    let name: String = text.chars().map(|c| if odd(c) { '_' } else { c }).take(48).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

/// Texts as lines that fit, without what would end one.
#[must_use]
pub fn lines(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut rest: String = line.chars().filter(|c| !matches!(c, '\0' | '\r' | '\n')).collect();
        while rest.len() > MAX_TEXT {
            let mut at = MAX_TEXT;
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let tail = rest.split_off(at);
            out.push(std::mem::replace(&mut rest, tail));
        }
        out.push(rest);
    }
    out.retain(|l| !l.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send() {
        let line = |command: &str, args: &[&str]| {
            let args = args.iter().map(|a| (*a).to_owned()).collect();
            Some(Line { command: command.to_owned(), args })
        };
        assert_eq!(Line::parse("PRIVMSG #a/b :hello there :)"), line("PRIVMSG", &["#a/b", "hello there :)"]));
        assert_eq!(Line::parse("@label=1 :me join  #a"), line("JOIN", &["#a"]));
        assert_eq!(Line::parse("NICK ann"), line("NICK", &["ann"]));
        assert_eq!(Line::parse("USER a 0 * :"), line("USER", &["a", "0", "*", ""]));
        for empty in ["", "   ", ":prefix", "@tags"] {
            assert_eq!(Line::parse(empty), None);
        }
        assert_eq!(name("Ducks & geese, inc"), "Ducks___geese__inc");
        assert_eq!(lines("a\r\n\nb"), ["a", "b"]);
        let long = lines(&"ü".repeat(300));
        assert!(long.iter().all(|l| l.len() <= MAX_TEXT) && long.concat() == "ü".repeat(300));
    }
}
