//! Each kind of wrong file, and the exact words that the user reads.

use super::*;

const HEAD: &str = "name: alpha\nnetwork:\n  name: home\n  secret: correct-horse-battery-staple\n";

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("aegisray-config-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn load(name: &str, text: &str) -> Result<Config, String> {
    let dir = dir(name);
    let text = format!("{text}state_dir: state\nidentity:\n  algorithm: ed25519\n");
    let result = Config::parse(&dir.join("peer.yaml"), &text);
    std::fs::remove_dir_all(&dir).unwrap();
    result.map_err(|e| e.to_string().rsplit_once("peer.yaml").unwrap().1.to_owned())
}

#[test]
fn defaults_are_filled_in() {
    let config = load("defaults", HEAD).unwrap();
    assert_eq!(config.name, "alpha");
    assert_eq!((config.interface.as_str(), config.mtu, config.max_peers), ("aegis0", 1420, 50));
    assert_eq!(config.listen, "[::]:51900".parse().unwrap());
    assert_eq!(config.network.cidr().to_string(), "100.64.0.0/16");
    assert!(config.relay && config.lan_discovery);
}

#[test]
fn errors_name_line_column_key_and_what_was_expected() {
    let cases = [
        ("mesh:\n  mtu: 100\n", ":6:8: mesh.mtu: expected bytes from 1280 to 1420, got 100"),
        ("mesh:\n  mtu: fast\n", ":6:8: mesh.mtu: "),
        ("mesh:\n  speed: 1\n", ":6:3: mesh.speed: unknown field `speed`"),
        ("mesh:\n  cidr: 10.0.0.1/8\n", ":6:9: mesh.cidr: host bits are set: did you mean 10.0.0.0/8?"),
        (
            "stealth:\n  mode: always\n  sites: [{ address: \"192.0.2.1:443\", sni: www.example.org }]\ndns:\n  host: file\n",
            ":8:1: dns.host: `file` or `resolvconf` with stealth.mode `always` would leave this host without names",
        ),
        ("peers:\n  bootstrap:\n    - relay.example.org\n", ":7:7: peers.bootstrap: expected HOST:PORT"),
        ("peers:\n  max: 3\n", ":6:8: peers.max: expected a number from 8 to 1000, got 3"),
        (
            "session:\n  cipher: rot13\n",
            ":6:11: session.cipher: expected `auto`, `aegis-256x4`, `aes-256-gcm` or `chacha20-poly1305`",
        ),
        (
            "stealth:\n  proxy: \"ftp://192.0.2.1:3128\"\n",
            ":6:10: stealth.proxy: expected socks5://[USER:PASSWORD@]HOST:PORT",
        ),
        ("stealth:\n  mode: on\n", ":6:9: stealth.mode: expected `off`, `auto` or `always`; got `on`"),
        ("stealth:\n  mode: always\n", ":6:9: stealth.mode: needs stealth.sites to go to"),
        (
            "stealth:\n  mode: always\n  sites:\n    - { address: \"www.example.org:443\", sni: www.example.org }\n",
            ":8:18: stealth.sites: with mode `always` give IP:PORT",
        ),
        (
            "stealth:\n  mode: auto\n  sites:\n    - { address: \"192.0.2.1:443\", sni: 192.0.2.1 }\n",
            ":8:40: stealth.sites: expected a host name like www.example.org",
        ),
        ("access:\n  default: maybe\n", ":6:12: access.default: expected `allow` or `deny`, got `maybe`"),
        (
            "access:\n  rules:\n    - allow: [group:admins]\n",
            ":7:15: access.rules.allow: names and groups are what certificates say, and this network has no authority",
        ),
        (
            "access:\n  rules:\n    - allow: [any]\n      ports: [70000]\n",
            ":8:15: access.rules.ports: expected a port like 22/tcp, 53, 8000-8080/udp",
        ),
        (
            "access:\n  rules:\n    - allow: [any]\n      to: [here]\n",
            ":8:12: access.rules.to: expected `self`, `internet`, `segment:NAME` or a prefix",
        ),
        (
            "access:\n  rules:\n    - allow: [portal]\n",
            ":7:15: access.rules.allow: this node has no portal (portal.enabled)",
        ),
        (
            "portal:\n  enabled: true\n  ipv4: 10.0.0.0/30\n",
            ":7:9: portal.ipv4: expected an IPv4 prefix of length 8 to 29",
        ),
        (
            "portal:\n  enabled: true\n  ipv4: 100.64.5.0/24\n",
            ":5:1: portal: 100.64.5.0/24 overlaps the mesh's 100.64.0.0/16",
        ),
        (
            "dns:\n  services: [{ service: http, port: 80 }]\n",
            ":6:25: dns.services: expected a service like _http._tcp, got `http`",
        ),
        ("log:\n  level: loud\n", ":6:10: log.level: expected `error`"),
        ("routing:\n  accept:\n    - node: xyz\n      prefixes: []\n", ":7:13: routing.accept.node: not a NodeId"),
        ("log: {level: info}\nlog: {level: info}\n", ":6:1: log: "),
        ("name: [\n", ""),
    ];
    for (text, expected) in cases {
        let error = load("cases", &format!("{HEAD}{text}")).unwrap_err();
        assert!(error.starts_with(expected), "for {text:?}: got {error:?}, expected {expected:?}");
    }
}

#[test]
fn a_network_without_secret_and_weak_secrets_are_refused() {
    let error = load("none", "network:\n  name: home\n").unwrap_err();
    assert!(error.starts_with(":1:1: network: needs a secret"), "{error}");
    let error = load("weak", "network:\n  name: home\n  secret: short\n").unwrap_err();
    assert!(error.starts_with(":3:11: network.secret: the network secret must have at least 20"), "{error}");
}

#[test]
fn key_files_that_are_missing_or_too_open_are_named() {
    let text = "network:\n  name: home\n  secret_file: net.key\n";
    let error = load("nofile", text).unwrap_err();
    assert!(error.starts_with(":3:16: network.secret_file: cannot read "), "{error}");
    let dir = dir("open");
    let key = dir.join("net.key");
    std::fs::write(&key, "correct-horse-battery-staple").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = Config::parse(&dir.join("peer.yaml"), text).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (3, "network.secret_file"));
    assert!(error.message.contains("can be read by others (mode 0644): run `chmod 600"), "{}", error.message);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_with_secrets_that_others_can_read_is_refused() {
    let dir = dir("mode");
    std::fs::write(dir.join("net.key"), "correct-horse-battery-staple").unwrap();
    let set_mode = |file: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(dir.join(file), permissions).unwrap();
    };
    set_mode("net.key", 0o600);
    let file = dir.join("peer.yaml");
    let rest = "state_dir: state\nidentity:\n  algorithm: ed25519\n";
    let by_file = "network:\n  name: home\n  secret_file: net.key\n";
    let turn = "peers:\n  turn: { server: \"192.0.2.1:3478\", username: a, password: b }\n";
    let proxy = "stealth:\n  proxy: \"socks5://a:b@192.0.2.1:1080\"\n";
    let cases = [
        (HEAD.to_owned(), Some((4, "network.secret"))),
        (format!("{by_file}{turn}"), Some((5, "peers.turn"))),
        (format!("{by_file}{proxy}"), Some((5, "stealth.proxy"))),
        (format!("{by_file}{}", proxy.replace("a:b@", "")), None),
    ];
    for (text, expected) in cases {
        std::fs::write(&file, format!("{text}{rest}")).unwrap();
        for mode in [0o644, 0o640, 0o604] {
            set_mode("peer.yaml", mode);
            let found = Config::load(&file).map(drop);
            let Some((line, key)) = expected else {
                assert_eq!(found, Ok(()), "nothing in it is secret");
                continue;
            };
            let error = found.unwrap_err();
            assert_eq!((error.line, error.key.as_str()), (line, key), "{error}");
            let hint = format!("can be read by others (mode {mode:04o}): run `chmod 600 {}`", file.display());
            assert!(error.message.contains(&hint), "{error}");
        }
        set_mode("peer.yaml", 0o600);
        Config::load(&file).unwrap();
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let error = Config::load(Path::new("/nonexistent/peer.yaml")).unwrap_err().to_string();
    assert!(error.contains("aegisray init"), "{error}");
}
