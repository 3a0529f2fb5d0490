//! What detectors say of a hundred connections: Wireshark's and nDPI's dissectors, the rule against fully encrypted
//! traffic, and JA4, beside a real browser's in the same run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aegisray::{
    lab::topology::{Host, Internet},
    stealth::fingerprint::{Fingerprint, is_grease, passes_as},
};

use super::{
    capture::{Capture, Connection},
    harness::{Dir, need_route, node},
    site::{ADDRESS, NAME, Site},
};

const CLIENTS: usize = 4;
const VISITS: usize = 25;
/// The Chromium that `browser-hello` is modelled on. Others say hello in their own way.
const MODEL: &str = "156";

pub fn judge() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (site, _theirs) = Site::borrow(&dir, &mut internet);
    // Early: a network whose addresses are still new is one that "has changed" to Chromium, which then gives up its visit.
    let browser = internet.public("203.0.113.70".parse().unwrap()).unwrap();
    let ours = visits(&dir, &mut internet, &site);
    let connections = ours.connections(ADDRESS);
    assert!(connections.len() >= CLIENTS * VISITS, "{} connections", connections.len());
    let fingerprints: Vec<Fingerprint> = connections.iter().filter_map(|c| Fingerprint::of(&c.up)).collect();
    for c in connections.iter().filter(|c| Fingerprint::of(&c.up).is_none()) {
        println!("  no hello: {} bytes up, {} down, {:02x?}", c.up.len(), c.down.len(), &c.up[..c.up.len().min(16)]);
    }
    assert_eq!(fingerprints.len(), connections.len(), "each begins with a ClientHello");
    let passed: BTreeSet<_> = connections.iter().map(|c| passes_as(&c.up[..c.up.len().min(1460)])).collect();
    println!("  {} connections; as to their first packet they pass as {passed:?}", connections.len());
    assert_eq!(passed, BTreeSet::from([Some("TLS")]));
    check_pattern(&connections);

    let theirs = browse(&dir, &browser);
    let file = dir.0.join("ours.pcap");
    ours.write(&file).unwrap();
    tshark(&file, connections.len());
    let of_ours = ndpi(&file);
    println!("  nDPI: {of_ours:?}");
    assert_eq!(of_ours.keys().collect::<Vec<_>>(), ["TLS"], "nothing else is seen in them");
    let Some((theirs, version)) = theirs else {
        println!("  no Chromium on this machine: not compared with it");
        return;
    };
    let file = dir.0.join("theirs.pcap");
    theirs.write(&file).unwrap();
    let of_theirs = ndpi(&file);
    println!("  nDPI of Chromium's visit: {of_theirs:?}");
    let beyond: Vec<_> = of_ours["TLS"].difference(&of_theirs["TLS"]).collect();
    let visit =
        theirs.connections(ADDRESS).into_iter().find_map(|c| Fingerprint::of(&c.up)).expect("Chromium says hello");
    let different = differences(&fingerprints[0], &visit);
    println!(
        "  JA4 of ours {}, of Chromium {version}'s {}; {} fields differ",
        fingerprints[0].ja4,
        visit.ja4,
        different.len()
    );
    if cfg!(feature = "browser-hello") && version == MODEL {
        assert!(fingerprints.iter().all(|f| f.ja4 == visit.ja4));
        assert!(different.is_empty(), "{different:#?}");
        assert!(beyond.is_empty(), "nDPI finds {beyond:?} in ours alone");
        let orders: BTreeSet<&str> = fingerprints.iter().map(|f| &f.ja3[..]).collect();
        assert!(orders.len() * 10 > fingerprints.len() * 9, "the order of the extensions varies");
    } else {
        println!("    {}", different.join("\n    "));
    }
}

/// Members that come and go.
fn visits(dir: &Dir, internet: &mut Internet, site: &Site) -> Capture {
    let hosts: Vec<Host> =
        (0..CLIENTS).map(|n| internet.public(format!("203.0.113.{}", 20 + n).parse().unwrap()).unwrap()).collect();
    let listens = || site.host.ns.run(|| std::net::TcpStream::connect((ADDRESS, 443))).ok();
    aegisray::lab::daemon::wait_for(Duration::from_secs(15), listens).expect("the node has seen the decoy");
    // Passes from before its start are not taken.
    std::thread::sleep(Duration::from_secs(11));
    let visit = |n: usize| {
        let mut client = node(dir, &format!("client{n}"), &site.way_in("always", NAME));
        for _ in 0..VISITS {
            client.start(&hosts[n]).unwrap();
            need_route(&client, "site");
            client.kill();
        }
    };
    Capture::of(&site.host, || {
        std::thread::scope(|scope| {
            for n in 0..CLIENTS {
                scope.spawn(move || visit(n));
            }
        });
    })
}

/// One connection at a time, and an answer that is longer than the request.
fn check_pattern(connections: &[Connection]) {
    let down: usize = connections.iter().map(|c| c.down.len()).sum();
    let up: usize = connections.iter().map(|c| c.up.len()).sum();
    println!("  {} bytes up and {} down on average", up / connections.len(), down / connections.len());
    assert!(down > up, "a visit takes more than it brings");
}

/// A browser's visit of the same site; `None` without one on this machine.
fn browse(dir: &Dir, host: &Host) -> Option<(Capture, String)> {
    let chromium = ["/usr/bin/chromium", "/usr/bin/google-chrome"].into_iter().find(|p| Path::new(p).exists())?;
    let log = dir.0.join("browser.log");
    let mut command = host.ns.command(chromium);
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--ignore-certificate-errors"])
        .arg(format!("--user-data-dir={}", dir.0.join("browser").display()))
        .arg(format!("--host-resolver-rules=MAP {NAME} {ADDRESS}"))
        .args(["--dump-dom", &format!("https://{NAME}/")])
        .env("HOME", &dir.0)
        .stdin(Stdio::null())
        .stderr(Stdio::from(std::fs::File::create(&log).unwrap()))
        .stdout(Stdio::piped());
    let mut page = String::new();
    let capture = Capture::of(host, || {
        let mut child = command.spawn().expect("Chromium starts");
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(40) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        page = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
    });
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(page.contains("A site about ducks"), "Chromium sees the site behind which the node is: {page}\n{said}");
    // "Chromium 156.0.7950.0 built on Debian …"
    let version = output_of(Command::new(chromium).arg("--version").env("HOME", &dir.0));
    let version = version.split(' ').find_map(|word| word.split_once('.')).map_or_else(String::new, |v| v.0.to_owned());
    Some((capture, version))
}

/// Wireshark's dissector reads every flow as TLS, and finds nothing wrong.
fn tshark(file: &Path, flows: usize) {
    let count = |filter: &str| {
        let output = output_of(Command::new("tshark").arg("-r").arg(file).args([
            "-Y",
            filter,
            "-T",
            "fields",
            "-e",
            "tcp.stream",
        ]));
        output.lines().collect::<BTreeSet<_>>().len()
    };
    let (hellos, wrong) =
        (count("tls.handshake.type == 1"), count("_ws.malformed or tls.alert_message or _ws.expert.severity == error"));
    println!("  tshark: {hellos} flows with a ClientHello, {wrong} with something wrong in them");
    assert_eq!((hellos, wrong), (flows, 0));
}

/// nDPI's protocols, and what it finds risky in each.
fn ndpi(file: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = output_of(Command::new("ndpiReader").arg("-i").arg(file).args(["-v", "2"]));
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let Some((_, rest)) = line.split_once("[proto: ") else { continue };
        // `91/TLS]…`, or `91.7/TLS.HTTP]`.
        let Some((_, name)) = rest.split_once(']').and_then(|(p, _)| p.split_once('/')) else { continue };
        let risks = out.entry(name.to_owned()).or_default();
        let found = line.split("[Risk: ").skip(1).filter_map(|r| r.split_once(']'));
        risks.extend(found.flat_map(|(r, _)| r.split("** **")).map(|r| r.replace('*', "").trim().to_owned()));
    }
    assert!(!out.is_empty(), "{text}");
    out
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().expect("tshark and ndpiReader are installed (make setup-tests)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The fields of two ClientHellos that differ, beside what differs from hello to hello of the same browser: order, keys, and
/// reserved values.
fn differences(ours: &Fingerprint, theirs: &Fingerprint) -> Vec<String> {
    let mut out = Vec::new();
    let mut compare = |what: String, a: &str, b: &str| {
        if a != b {
            out.push(format!("{what}: {a} here, {b} there"));
        }
    };
    compare("cipher suites".to_owned(), &ours.fields.0, &theirs.fields.0);
    let kinds: BTreeSet<u16> = ours.extensions.keys().chain(theirs.extensions.keys()).copied().collect();
    for kind in kinds {
        let show = |f: &Fingerprint| f.extensions.get(&kind).map_or("none".to_owned(), |e| normal(kind, e));
        compare(format!("extension {kind}"), &show(ours), &show(theirs));
    }
    out
}

/// An extension's content without keys and reserved values.
fn normal(kind: u16, content: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    match kind {
        // Key shares: groups and lengths.
        51 => {
            let (mut rest, mut out) = (&content[2..], String::new());
            while let [g1, g2, l1, l2, after @ ..] = rest {
                let (group, len) = (u16::from_be_bytes([*g1, *g2]), usize::from(u16::from_be_bytes([*l1, *l2])));
                if !is_grease(group) {
                    out += &format!("{group:04x}:{len} ");
                }
                rest = &after[len..];
            }
            out
        }
        // Encrypted ClientHello as a browser sends it without a key: kind and suite; lengths are drawn.
        0xfe0d => hex(&content[..5]),
        // Lists of two bytes each, behind a length of one or two bytes.
        10 | 13 | 43 => {
            let list = if kind == 43 { &content[1..] } else { &content[2..] };
            let list: Vec<u16> = list.chunks_exact(2).map(|n| u16::from_be_bytes([n[0], n[1]])).collect();
            list.into_iter().filter(|n| !is_grease(*n)).map(|n| format!("{n:04x} ")).collect()
        }
        _ => hex(content),
    }
}
