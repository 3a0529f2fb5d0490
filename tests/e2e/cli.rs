//! The commands as a person types them.

use std::process::{Command, Output};

use super::{
    harness::{Dir, need_route, program},
    line::line,
};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn commands() {
    let line = line();
    let [a, _, c] = &line.daemons;
    need_route(a, "C");
    let ask = |args: &[&str]| {
        let output = a.command(&line.hosts[0]).args(args).arg("--socket").arg(a.socket()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        text(&output)
    };
    // At once: the first echo must survive that the session is still to be made.
    let ping = ask(&["ping", "C", "-c", "3"]);
    let drops: Vec<_> = line.daemons.iter().map(|d| d.status().map(|s| (s.node.dropped, s.node.counters))).collect();
    assert!(ping.contains("3 of 3 echoes came back"), "{ping} {drops:?}");
    need_route(c, "A");
    assert!(ask(&["status"]).contains("2 of 2 known nodes reachable"));
    let peers = ask(&["peers"]);
    assert!(peers.starts_with("NODE") && peers.contains("10.1.0.2:51900"), "{peers}");
    let routes = ask(&["routes"]);
    assert!(routes.contains("via B") && routes.contains("direct"), "{routes}");
    let trace = ask(&["trace", "C"]);
    let hops: Vec<&str> = trace.lines().skip(1).map(|l| l.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(hops, ["B", "C"], "{trace}");
    // A node answers to its NodeId, the beginning of it, and its addresses.
    let json: serde_json::Value = serde_json::from_str(&ask(&["routes", "--json"])).unwrap();
    let c = json.as_array().unwrap().iter().find(|r| r["name"] == "C").unwrap().clone();
    let id = c["node_id"].as_str().unwrap();
    for name in [id, &id[..8], c["addresses"][0].as_str().unwrap(), c["addresses"][1].as_str().unwrap()] {
        assert!(ask(&["ping", name, "-c", "1"]).contains("echo from C"));
    }
    for command in ["status", "peers", "routes"] {
        serde_json::from_str::<serde_json::Value>(&ask(&[command, "--json"])).unwrap();
    }
    let nobody = a.command(&line.hosts[0]).args(["ping", "nobody", "--socket"]).arg(a.socket()).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no node is called `nobody`"));
}

pub fn exit_codes() {
    let dir = Dir::new();
    let file = dir.0.join("peer.yaml");
    let run = |args: &[&str]| Command::new(program()).args(args).output().unwrap();
    std::fs::write(&file, "network:\n  name: home\n  secret: long-enough-to-be-a-secret\nmesh:\n  mtu: 9\n").unwrap();
    let path = file.to_str().unwrap();
    for args in [&["-config", path][..], &[&format!("-config={path}")], &["check", "--config", path]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(&format!("{path}:5:8: mesh.mtu: expected bytes from 1280 to 1420, got 9")), "{error}");
    }
    assert_eq!(run(&["frobnicate"]).status.code(), Some(2));
    let no_daemon = run(&["status", "--socket", "/nonexistent/socket"]);
    assert_eq!(no_daemon.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no_daemon.stderr).contains("is it running?"));
    let help = text(&run(&["--help"]));
    assert!(help.contains("aegisray lab") && help.contains("aegisray join  "), "{help}");
    let token = run(&["join", "aegis1-abc", "--dir", dir.0.join("x").to_str().unwrap()]);
    assert_eq!(token.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&token.stderr).contains("a part of the token is missing"));
}

/// The program against itself.
pub fn bench_against() {
    let args =
        ["bench", "--only", "aegisray", "--measure", "tcp", "--runs", "1", "--seconds", "1", "--json", "--against"];
    let output = Command::new(program()).args(args).arg(program()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    let [ours, other] = &all.as_array().unwrap()[..] else { panic!("two subjects: {all}") };
    assert!(ours["name"] == "aegisray" && ours["is_build"] == false && other["is_build"] == true, "{all}");
    let ratio = other["ratio_of_medians"]["tcp_1"].as_f64().unwrap();
    println!("one stream beside itself: {ratio:.2}");
    assert!(ratio > 0.0 && other["packets_per_call"].as_f64() > Some(1.0), "{other}");
}
