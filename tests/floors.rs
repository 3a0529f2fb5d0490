//! The house keeps its floors: a module imports only from floors beneath its own, and pure code stays pure. The rules
//! are themselves tested on planted faults.

use std::{collections::BTreeMap, fs, path::Path};

/// Modules by floor. A module may import from lower floors only.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["types", "crypto"]),
    (1, &["wire", "identity", "config"]),
    (2, &["session", "routing", "discovery", "punch", "access"]),
    (3, &["node"]),
    (4, &["transport", "tun", "host", "portmap", "stealth", "chat"]),
    (5, &["dataplane", "portal", "chatd"]),
    (6, &["api", "lab", "sim", "netcheck"]),
    (7, &["daemon"]),
    (8, &["cli"]),
];

/// Imports within a floor that the architecture names, with the reason.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    ("crypto", "types", "durations in the generator"),
    ("identity", "wire", "records and certificates are wire formats"),
    ("config", "identity", "key files are read while a configuration is validated"),
    ("portmap", "host", "random numbers, and sockets that go past the tunnel"),
    ("stealth", "host", "random numbers, and sockets that go past the tunnel"),
    ("transport", "host", "sockets that go past the tunnel"),
    ("stealth", "transport", "TLS covers the bytes of a transport's stream"),
    ("lab", "api", "the lab asks its daemons as a person would"),
];

/// Words that pure floors (0 to 3) must not contain, with the reason.
const FORBIDDEN: &[(&str, &str)] = &[
    ("std::net::UdpSocket", "a state machine opens no socket"),
    ("std::net::TcpStream", "a state machine opens no socket"),
    ("tokio", "a state machine does not wait"),
    ("Instant::now", "time is handed in"),
    ("SystemTime", "time is handed in"),
    ("getrandom", "randomness is handed in"),
    ("Mutex", "pure code has nothing to lock"),
    ("RwLock", "pure code has nothing to lock"),
    ("unsafe {", "unsafe lives in tun, transport and host"),
    ("thread::", "a state machine starts no thread"),
    ("chat", "the core names no service"),
];

/// Exceptions to the forbidden words, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("crypto/noise.rs", "Mutex", "snow's resolver takes &self though it hands out a generator"),
    ("crypto/stretch.rs", "Mutex", "a secret is stretched once a process"),
    ("node/claims.rs", "RwLock", "the data plane reads it for what its tables don't have yet"),
    ("config/chat.rs", "chat", "a configuration names what it configures"),
    ("config/mod.rs", "chat", "a configuration names what it configures"),
    ("config/ports.rs", "chat", "a configuration names what it configures"),
    ("config/raw.rs", "chat", "a configuration names what it configures"),
];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(n, _)| *n)
}

/// The part of a file that ships: without its tests and comments.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    shipped.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules that a file imports from this crate.
fn imports(text: &str) -> Vec<String> {
    let text = code(text);
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    found.push(item.trim().split("::").next().unwrap_or("").to_owned());
                    item.clear();
                } else {
                    item.push(c);
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.retain(|m| !m.is_empty());
    found
}

fn faults(path: &str, text: &str) -> Vec<String> {
    let Some(module) = path.split(['/', '.']).next() else { return vec![] };
    let Some(own) = floor(module) else { return vec![format!("{path}: module `{module}` stands on no floor")] };
    let mut out = Vec::new();
    for import in imports(text) {
        if import == module {
            continue;
        }
        let allowed = floor(&import).is_some_and(|f| f < own)
            || NEIGHBOURS.iter().any(|(from, to, _)| *from == module && *to == import);
        if !allowed {
            out.push(format!("{path}: `{module}` (floor {own}) imports `{import}`"));
        }
    }
    if own <= 3 {
        for (word, why) in FORBIDDEN {
            let excused = EXCEPTIONS.iter().any(|(file, w, _)| path == *file && w == word);
            if code(text).contains(word) && !excused {
                out.push(format!("{path}: contains `{word}`: {why}"));
            }
        }
    }
    out
}

fn sources(dir: &Path, base: &Path, out: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, base, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(base).unwrap().display().to_string();
            out.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_module_keeps_to_its_floor() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    sources(&base, &base, &mut files);
    let is_inner_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let faults: Vec<String> = files
        .iter()
        .filter(|(path, _)| !["lib.rs", "main.rs"].contains(&path.as_str()) && !is_inner_test(path))
        .flat_map(|(path, text)| faults(path, text))
        .collect();
    assert!(files.len() > 40 && faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_stay_of_a_size() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    sources(&base, &base, &mut files);
    for (path, text) in files {
        let lines = text.lines().count();
        assert!(lines <= 600, "{path} has {lines} lines: split it");
    }
}

#[test]
fn planted_faults_are_found() {
    let faulty = [
        ("routing/x.rs", "use crate::node::Node;", "imports `node`"),
        ("routing/x.rs", "use crate::{types::X, session::Y};", "imports `session`"),
        ("types/x.rs", "fn f() { crate::wire::x() }", "imports `wire`"),
        ("node/x.rs", "let t = std::time::Instant::now();", "Instant::now"),
        ("session/x.rs", "use tokio::sync::mpsc;", "tokio"),
        ("crypto/x.rs", "let m = Mutex::new(1);", "Mutex"),
        ("wire/x.rs", "unsafe { f() }", "unsafe"),
        ("attic/x.rs", "", "stands on no floor"),
    ];
    for (path, text, expected) in faulty {
        assert!(faults(path, text).iter().any(|f| f.contains(expected)), "{path}: {text}");
    }
    let sound = [
        ("node/x.rs", "use crate::{routing::{A, B}, types::{C}};"),
        ("node/x.rs", "// tokio is not for here\nfn f() {}\n#[cfg(test)]\nmod tests { use std::time::Instant::now; }"),
        ("daemon/x.rs", "use crate::{api::X, node::Y}; let t = Instant::now();"),
    ];
    for (path, text) in sound {
        assert!(faults(path, text).is_empty(), "{path}: {:?}", faults(path, text));
    }
}

/// Files that may read which addresses and names a record claims, with the reason. Everybody else asks the book of owners.
const CLAIMS: &[(&str, &str)] = &[
    ("identity/", "it is where records are made and read"),
    ("node/owners.rs", "the book itself"),
    ("sim/hostile/", "who lies knows what others claim"),
    ("node/mod.rs", "this node's own addresses"),
    ("node/forward.rs", "this node's own record"),
];

#[test]
fn whose_an_address_or_a_name_is_the_book_of_owners_says_alone() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    sources(&base, &base, &mut files);
    let is_excused =
        |path: &str| path.contains("tests") || CLAIMS.iter().any(|(excused, _)| path.starts_with(*excused));
    for (path, text) in files.iter().filter(|(path, _)| !is_excused(path)) {
        for claim in ["record.addresses", "record.name"] {
            assert!(!code(text).contains(claim), "{path}: `{claim}` is a claim; ask `Node::owners`");
        }
    }
}

/// What ends the process or its thread when it is reached. `debug_assert` is not in a build for use; fuzzers have it.
const PANICS: &[&str] = &[
    ".expect(",
    ".unwrap()",
    "panic!(",
    "unreachable!(",
    "todo!(",
    "unimplemented!(",
    "assert!(",
    "assert_eq!(",
    "assert_ne!(",
];

/// Programs that nobody outside speaks to.
const NO_DAEMON: &[&str] = &["cli/", "lab/", "sim/", "chat/sim.rs", "chatd/bench.rs"];

/// What ends the process when there can be no more threads; a `Builder` tells. Namespaces are the tests' and the lab's, measuring
/// the network is a command's.
const THREADS: &[&str] = &["thread::spawn(", "scope.spawn("];
const NO_DAEMONS_THREADS: &[&str] = &["host/netns.rs", "netcheck/"];

/// The lines of a file without comments and what only tests have.
fn shipped(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            if !line.trim_start().starts_with("//") {
                out += line;
                out.push('\n');
            }
            continue;
        }
        // The item that follows: to its last line, which is a brace as far in as itself.
        let end = line.replace("#[cfg(test)]", "}");
        let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#["));
        if item.is_some_and(|line| !line.ends_with(';') && !line.ends_with('}')) {
            lines.by_ref().find(|line| line.trim_end_matches(';') == end);
        }
    }
    out
}

/// The places in a file that can panic by themselves, each by the words that it would say.
fn panics(text: &str) -> Vec<String> {
    let text = shipped(text);
    let mut found = Vec::new();
    for kind in PANICS {
        for (at, _) in text.match_indices(kind) {
            let before = &text[..at];
            let is_part_of_a_word =
                !kind.starts_with('.') && before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if is_part_of_a_word || before.ends_with("const { ") {
                continue;
            }
            let mut depth = 0;
            let end = text[at..].find(|c: char| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                c == ')' && depth == 0
            });
            let call = &text[at..=at + end.unwrap_or(0)];
            found.push(call.split('"').nth(1).unwrap_or(call).to_owned());
        }
    }
    found
}

/// Every place in the daemon that can panic stands in docs/security.md with its reason, and nothing else does.
#[test]
fn panics_that_remain_have_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    sources(&root.join("src"), &root.join("src"), &mut files);
    let is_meant = |path: &str| {
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        !is_test && !NO_DAEMON.iter().any(|start| path.starts_with(start))
    };
    let of_file = |(path, text): (&String, &String)| {
        panics(text).into_iter().map(|words| format!("`{path}` | {words}")).collect::<Vec<_>>()
    };
    let mut there: Vec<String> = files.iter().filter(|(path, _)| is_meant(path)).flat_map(of_file).collect();
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let section = text.split("## Panics that remain").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented: Vec<String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").collect();
            assert!(cells.len() == 3 && cells[2].trim().len() > 7, "a place, its words and a reason: {row}");
            format!("`{} | {}", cells[0], cells[1])
        })
        .collect();
    there.sort();
    documented.sort();
    let missing: Vec<_> = there.iter().filter(|site| !documented.contains(site)).collect();
    let stale: Vec<_> = documented.iter().filter(|site| !there.contains(site)).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "not in docs/security.md: {missing:#?}\nno longer there: {stale:#?}"
    );
    assert!(there.len() > 10);
}

#[test]
fn a_thread_that_cannot_be_made_ends_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    sources(&root.join("src"), &root.join("src"), &mut files);
    let elsewhere = |path: &str| NO_DAEMON.iter().chain(NO_DAEMONS_THREADS).any(|start| path.starts_with(start));
    let is_meant = |path: &str| !elsewhere(path) && !path.ends_with("/tests.rs") && !path.contains("/tests/");
    let makes = |text: &str| THREADS.iter().any(|words| shipped(text).contains(words));
    assert!(makes("fn f() {\n    thread::spawn(|| ());\n}\n") && !makes("fn f() {\n    builder.spawn(|| ());\n}\n"));
    let found: Vec<_> =
        files.iter().filter(|(path, text)| is_meant(path) && makes(text)).map(|(path, _)| path).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn planted_panics_are_found() {
    let text = "fn f() {\n    x.expect(\"a reason\");\n    debug_assert!(y);\n    // z.unwrap()\n    assert!(y, \"why\");\n}\n\
                #[cfg(test)]\nfn g() {\n    a.unwrap();\n}\nfn h() {\n    b.unwrap();\n    unreachable!()\n}\n\
                impl X {\n    #[cfg(test)]\n    fn i() {\n        c.unwrap();\n    }\n    fn j() { panic!(\"j\") }\n}\n\
                #[cfg(test)]\nmod tests {\n    fn k() {\n        d.unwrap()\n    }\n}\n#[cfg(test)]\nmod tests;\n";
    let mut found = panics(text);
    found.sort();
    assert_eq!(found, [".unwrap()", "a reason", "j", "unreachable!()", "why"]);
}
