//! How members are let in, and what others may do to who is on its way in.

use std::{fs, process::Command, time::Duration};

use aegisray::{
    access::Protocol,
    api::{Request, Response},
    identity::{Invite, RecordContent},
    lab::{daemon::Daemon, topology::Internet},
    wire::frame::Kind,
};

use prost::Message as _;

use super::{
    capture::{Forger, Recorder},
    guest::Bare,
    harness::{Dir, need, need_route, program},
    hostile::{Hostile, id_of, identity, network_of, unix},
    world::{Strict, certificate_of, certify, join, place, public, run, v4},
};

/// Every lie about a certificate, from a member: the victim lives, and its certificate is what it was.
fn lie(mallory: &Hostile, victim: &mut Daemon, lies: &[Vec<u8>]) {
    let (file, id) = (certificate_of(victim), id_of(victim));
    let before = fs::read(&file).ok();
    for certificate in lies {
        mallory.need_link(id);
        mallory.say(id, Kind::Granted(certificate.clone()));
        std::thread::sleep(Duration::from_millis(200));
        assert!(victim.is_running(), "one frame has ended {}: {}", victim.name, victim.log_tail());
        assert_eq!(fs::read(&file).ok(), before, "{} has taken the certificate", victim.name);
    }
}

pub fn granted() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let strict = Strict::start(&dir, &mut net, "");
    let [victim_host, mallory_host, late_host] = [3, 4, 5].map(|n| public(&mut net, n));
    let mut victim = strict.member(&dir, &victim_host, "victim", &["--group", "admins"]);
    let key = identity(1);
    let certificate = strict.certify(key.id(), &["--name", "mallory", "--group", "guests"]);
    let content = RecordContent { name: "mallory".into(), certificate: certificate.clone(), ..Default::default() };
    let mallory = Hostile::start(&mallory_host, v4(4).into(), network_of(&strict.root), key, content);
    mallory.set_bootstrap(&["198.51.100.3"]);
    let other = dir.0.join("other");
    run(Command::new(program()).args(["init", "--authority", "--algorithm", "ed25519", "--dir"]).arg(&other));
    let lies_for = |id| {
        let expired = strict.certify(id, &["--name", "victim", "--days", "0"]);
        vec![b"junk".to_vec(), Vec::new(), certificate.clone(), certify(&other, id, &[]), expired]
    };
    let mut older = lies_for(id_of(&victim));
    // Sound, but not what it has: without its groups.
    older.push(strict.certify(id_of(&victim), &["--name", "nobody"]));
    lie(&mallory, &mut victim, &older);
    // The one that is started again has joined by an invite too.
    victim.kill();
    victim.start(&victim_host).unwrap();
    lie(&mallory, &mut victim, &older);
    victim.kill();
    victim.start(&victim_host).unwrap();
    need_route(&victim, "root");

    // One that is on its way in meets the hostile member first.
    let Strict { mut root, root_host } = strict;
    let token = {
        let mut invite = root.command(&root_host);
        let places = ["--bootstrap", "198.51.100.4:51900", "--bootstrap", "198.51.100.2:51900"];
        run(invite.args(["invite", "--valid", "1h", "--name", "late", "--socket"]).arg(root.socket()).args(places))
    };
    std::thread::sleep(Duration::from_secs(3));
    root.kill();
    victim.kill();
    let mut late = join(&dir, "late", &token);
    late.start(&late_host).unwrap();
    let id = id_of(&late);
    let lies = vec![b"junk".to_vec(), Vec::new(), certificate, certify(&other, id, &[])];
    lie(&mallory, &mut late, &lies);
    root.start(&root_host).unwrap();
    need_route(&late, "root");
    let file = certificate_of(&late);
    need(&late, "certificate of the true authority", || file.exists().then_some(()));
    format!("{} lies told", 2 * older.len() + lies.len())
}

pub fn invite_overheard() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let strict = Strict::start(&dir, &mut net, "");
    let [joiner_host, thief_host] = [3, 4].map(|n| public(&mut net, n));
    let network = network_of(&strict.root);
    // The thief is whom the joiner asks first.
    let key = identity(2);
    let certificate = strict.certify(key.id(), &["--name", "thief", "--group", "guests"]);
    let thief = Bare::start(&thief_host, v4(4), network, key, (certificate, None));
    let places = ["--bootstrap", "198.51.100.4:51900", "--bootstrap", "198.51.100.2:51900"];
    let token = strict.invite(&[&["--name", "cfo", "--group", "admins"][..], &places].concat());
    let secret = Invite::from_token(&token, unix()).unwrap().admission.expect("a one-time secret");
    let recorder = Recorder::start(&strict.root_host);
    let mut joiner = join(&dir, "cfo", &token);
    joiner.start(&joiner_host).unwrap();
    let heard = need(&joiner, "handshake with the thief", || Some(thief.heard()).filter(|h| !h.is_empty()));
    need_route(&joiner, "root");
    need_route(&strict.root, "cfo");
    std::thread::sleep(Duration::from_secs(1));
    let heard = [heard, thief.heard()].concat();
    let told = heard.iter().map(|payload| payload.encode_to_vec());
    let has_secret = told.into_iter().any(|payload| payload.windows(32).any(|w| w == secret));
    assert!(!has_secret, "the joiner has told the invite's secret to another than the inviter");
    assert!(heard.iter().all(|payload| payload.admission.is_empty()), "it has shown another a proof of the invite");
    // All that the joiner has said to the inviter, said again by the thief: to the same start of the inviter.
    let said: Vec<_> = recorder.take().into_iter().filter(|s| s.from == place(3) && s.to == place(2)).collect();
    joiner.kill();
    drop(thief);
    let forger = Forger::open(&thief_host);
    for datagram in said.iter().cycle().take(2 * said.len()) {
        forger.send(place(4), place(2), &datagram.body);
    }
    std::thread::sleep(Duration::from_secs(2));
    let others: Vec<String> = strict.root.peers().into_iter().map(|p| p.name).filter(|n| n != "cfo").collect();
    assert!(others.is_empty(), "somebody else got in: {others:?}");
    format!("{} payloads overheard, {} datagrams replayed", heard.len(), said.len())
}

pub fn nameless_invite() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let rules = "access:\n  default: deny\n  rules:\n    - allow: [boss]\n      to: [self]\n      ports: [22/tcp]\n";
    let strict = Strict::start(&dir, &mut net, rules);
    let [boss_host, guest_host] = [3, 4].map(|n| public(&mut net, n));
    let boss = strict.member(&dir, &boss_host, "boss", &[]);
    // The guest's invite names nobody: it calls itself as it likes.
    let home = dir.0.join("guest");
    let token = strict.invite(&["--group", "guests"]);
    run(Command::new(program()).args(["join", &token, "--no-start", "--name", "boss", "--dir"]).arg(&home));
    let mut guest = Daemon::prepared(program(), &home, "guest");
    guest.start(&guest_host).unwrap();
    let file = certificate_of(&guest);
    need(&guest, "certificate", || file.exists().then_some(()));
    let shown = run(Command::new(program()).args(["cert", "show"]).arg(&file));
    let certified = shown.lines().find(|l| l.trim_start().starts_with("name")).unwrap_or_default();
    assert!(!certified.contains("boss"), "the certificate says what the guest calls itself: {certified}");
    let may = |daemon: &Daemon| {
        let source = need(daemon, "addresses", || daemon.addresses()).0.to_string();
        let target = need(&strict.root, "addresses", || strict.root.addresses()).0.to_string();
        match strict.root.ask(&Request::AccessTest { source, target, protocol: Protocol::Tcp(22) }) {
            Ok(Response::Access(answer)) => answer.allowed,
            other => panic!("{other:?}"),
        }
    };
    let id = id_of(&guest).to_string();
    need(&strict.root, "route to the guest", || strict.root.routes().into_iter().find(|r| r.node_id == id));
    assert!(may(&boss) && !may(&guest), "the rule for the boss lets the guest in, or the boss no more");
    format!("the certificate says {:?}", certified.trim())
}
