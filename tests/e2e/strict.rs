//! What every command has in common: output that nobody reads any more, and a `check` that is as strict as a start.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use aegisray::{
    crypto::Algorithm,
    identity::{Identity, keyfile},
    lab::{daemon::Daemon, topology::Internet},
};

use super::harness::{Dir, SECRET, need, program};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Commands whose reader has gone end by the signal for that, or well if they have nothing to say, and never with a backtrace.
pub fn closed_pipes() {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let host = net.public("198.51.100.1".parse().unwrap()).unwrap();
    let home = dir.0.join("a");
    let init =
        ["init", "--authority", "--algorithm", "ed25519", "--name", "a", "--advertise", "198.51.100.1:51900", "--dir"];
    assert!(Command::new(program()).args(init).arg(&home).output().unwrap().status.success());
    let mut daemon = Daemon::prepared(program(), &home, "a");
    daemon.start(&host).unwrap();
    need(&daemon, "status", || daemon.status());
    let (config, certificate) = (home.join("peer.yaml"), home.join("certificate.pem"));
    let (config, certificate) = (config.to_str().unwrap(), certificate.to_str().unwrap());
    let path = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
    let (other, key) = (path("other"), path("key.pem"));
    let commands: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["--version"],
        vec!["check"],
        vec!["init", "--name", "b", "--algorithm", "ed25519", "--dir", &other],
        vec!["invite"],
        vec!["keygen", "--algorithm", "ed25519", "--out", &key],
        vec!["cert", "show", certificate],
        vec!["status"],
        vec!["status", "--json"],
        vec!["peers"],
        vec!["routes"],
        vec!["routes", "--json"],
        vec!["ping", "a", "-c", "1"],
        vec!["trace", "a"],
        vec!["exit"],
        vec!["acl", "list"],
        vec!["portal", "list"],
        vec!["stealth", "check"],
        vec!["reload"],
        vec!["fence"],
        vec!["simulate", "--nodes", "5", "--idle", "1"],
        vec!["simulate", "--nodes", "3", "--idle", "1", "--seeds", "1..2"],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = host.ns.command(program());
        command
            .args(&args)
            .arg(format!("--config={config}"))
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped());
        let output = command.output().unwrap();
        let told = stderr(&output);
        assert!(!told.contains("panicked") && !told.contains("backtrace"), "{args:?}: {told}");
        let ended = output.status.signal() == Some(13) || matches!(output.status.code(), Some(0..=2));
        assert!(ended, "{args:?}: {:?} {told}", output.status);
        if matches!(args[0], "status" | "check" | "cert") {
            assert_eq!(output.status.signal(), Some(13), "{args:?} says something");
        }
    }
}

/// What a start would refuse, `check` refuses with the same words.
pub fn check_is_a_start() {
    let dir = Dir::new();
    let write = |name: &str, content: &str, mode: u32| -> PathBuf {
        let path = dir.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let pem = || keyfile::identity_pem(&Identity::generate(Algorithm::Ed25519).unwrap()).unwrap().to_string();
    write("tls.key", &pem(), 0o600);
    write("tls.pem", "no certificate\n", 0o644);
    write("open", "password\n", 0o644);
    let many: String = (0..200).map(|n| format!("    - 10.{n}.0.0/24\n")).collect();
    let long = "x".repeat(120);
    let cases = [
        (format!("routing:\n  announce:\n{many}"), "others would refuse what this node says of itself"),
        ("chat:\n  enabled: true\n  password_file: open\n".to_owned(), "can be read by others (mode 0644)"),
        ("chat:\n  enabled: true\n  password_file: none\n".to_owned(), "No such file"),
        (
            "stealth:\n  mode: auto\n  serve: { certificate: tls.pem, key: tls.key, upstream: \"127.0.0.1:8080\" }\n".to_owned(),
            "tls.pem",
        ),
        (
            "stealth:\n  mode: auto\n  roots: none.pem\n  sites: [{ address: \"192.0.2.1:443\", sni: www.example.org }]\n".to_owned(),
            "none.pem",
        ),
        ("portal:\n  enabled: true\n  port: 51900\n".to_owned(), "portal.port: UDP port 51900 is that of listen.port as well"),
        ("chat:\n  enabled: true\n  page: 8007\n".to_owned(), "chat.page: TCP port 8007 is that of chat.port as well"),
        ("chat:\n  enabled: true\n  irc: 51900\n".to_owned(), "chat.irc: TCP port 51900 is that of listen.tcp_port as well"),
        ("portal:\n  enabled: true\n  interface: aegis0\n".to_owned(), "`aegis0` is the mesh's interface"),
        ("mesh:\n  interface: lo\n".to_owned(), "mesh.interface: `lo` is the kernel's"),
        (format!("socket: {long}\n"), "socket: a socket's path has at most 107 bytes"),
        ("exit: a..b\n".to_owned(), "no node is called so"),
        ("dns:\n  suffix: -x\n".to_owned(), "dns.suffix: expected a domain"),
        ("dns:\n  suffix: xn--aaaa9999999\n".to_owned(), "dns.suffix: expected a domain"),
    ];
    let mut net = Internet::new().unwrap();
    let host = net.public("198.51.100.1".parse().unwrap()).unwrap();
    for (more, says) in cases {
        let head = format!(
            "name: a\nnetwork: {{ name: home, secret: {SECRET} }}\nidentity: {{ algorithm: ed25519 }}\nstate_dir: state\n"
        );
        let socket = if more.starts_with("socket") { "" } else { "socket: s.sock\n" };
        let file = write("peer.yaml", &format!("{head}{socket}{more}"), 0o600);
        let output = Command::new(program()).arg("check").arg("-config").arg(&file).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{more}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            stderr(&output)
        );
        assert!(stderr(&output).contains(says), "{more}: {}", stderr(&output));
        let mut daemon = host.ns.command(program());
        daemon.arg("-config").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = daemon.output().unwrap();
        assert!(!started.status.success() && stderr(&started).contains(says), "{more}: {}", stderr(&started));
    }
    // What is the host's is told, and fails nothing.
    let taken = std::net::UdpSocket::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let head = format!(
        "name: a\nnetwork: {{ name: home, secret: {SECRET} }}\nidentity: {{ algorithm: ed25519 }}\nstate_dir: state\n"
    );
    let file = write("peer.yaml", &format!("{head}listen:\n  port: {port}\n"), 0o600);
    let output = Command::new(program()).arg("check").arg("-config").arg(&file).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains(&format!("cannot listen on UDP [::]:{port}")), "{told}");
}
