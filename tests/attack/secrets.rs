//! Secrets that people chose, and files that others can read.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use aegisray::{
    crypto::{HmacKey, hkdf_sha256, sha256},
    lab::{daemon::Daemon, topology::Internet},
};

use super::{
    capture::Recorder,
    harness::{Dir, program},
    world::{plain, public},
};

/// A passphrase of 20 characters, as people choose them.
const PASSPHRASE: &str = "correct horse battery staple";

/// The key of mac1 by one HKDF alone: what a guess would cost.
fn cheap_gate(name: &str, secret: &str) -> HmacKey {
    let salt = sha256(&[b"aegisray network v1", &sha256(&[name.as_bytes()]), b""]);
    let mut out = [0; 32];
    hkdf_sha256(&salt, secret.as_bytes(), &[b"gate"], &mut out);
    HmacKey::new(&out)
}

/// A datagram that was heard doesn't tell whether a guess at the passphrase is right for the price of a hash.
pub fn passphrase() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let host = public(&mut net, 2);
    let _other = public(&mut net, 3);
    let more = format!("identity:\n  algorithm: ed25519\n{}", plain(&["198.51.100.3"], ""));
    let mut daemon = Daemon::configure(program(), &dir.0, "node", &format!("\"{PASSPHRASE}\""), &more).unwrap();
    let recorder = Recorder::start(&host);
    // The other host's address is known, so that its datagrams are seen; nobody answers.
    daemon.start(&host).unwrap();
    super::harness::need(&daemon, "status", || daemon.status());
    std::thread::sleep(Duration::from_secs(2));
    let seen = recorder.take();
    let handshakes: Vec<_> = seen.iter().filter(|s| s.body.len() > 44 && s.body[0] == 0x41).collect();
    assert!(!handshakes.is_empty(), "no handshake was heard");
    let gate = cheap_gate("lab", PASSPHRASE);
    let told = handshakes.iter().any(|s| gate.verify(&[&s.body[..12], &s.body[44..]], &s.body[12..28]));
    assert!(!told, "one HKDF and one HMAC tell whether a guess is right");
    format!("{} handshakes heard", handshakes.len())
}

/// A configuration with a secret in it that others can read is refused.
pub fn modes() -> String {
    let dir = Dir::new();
    let file = dir.0.join("peer.yaml");
    fs::write(&file, "network:\n  name: home\n  secret: 0123456789abcdef0123456789abcdef\n").unwrap();
    let check = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        Command::new(program()).args(["check", "-config"]).arg(&file).output().unwrap()
    };
    let good = check(0o600);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    for mode in [0o644, 0o640, 0o604] {
        let output = check(mode);
        assert_eq!(output.status.code(), Some(2), "a file of mode {mode:o} with a secret in it is taken");
    }
    "modes 644, 640 and 604 refused".to_owned()
}
