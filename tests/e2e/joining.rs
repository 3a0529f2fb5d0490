//! Making networks and joining them, when something is in the way: names, tokens, disks, clocks, signals.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aegisray::{
    identity::{Authority, Certificate, Invite, keyfile},
    lab::{daemon::wait_for, topology::Internet},
    types::UnixTime,
};

use super::harness::{Dir, PATIENCE, SECRET, need, node, program, quiet};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now() -> UnixTime {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token_until(expires: UnixTime) -> String {
    let invite = Invite {
        network: "home".to_owned(),
        secret: Some(SECRET.to_owned()),
        authority: None,
        bootstrap: vec!["192.0.2.1:51900".to_owned()],
        admission: None,
        inviter: None,
        expires,
        cidr: "100.64.0.0/16".to_owned(),
    };
    invite.to_token()
}

fn token() -> String {
    token_until(now() + 3600)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the program with a text on standard input.
fn with_input(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have ended without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Joins in `dir` and does not start; what is wrong with it, if anything is.
fn join(dir: &Path, name: &str, token: &str) -> Result<(), String> {
    let output = with_input(&["join", "--no-start", "--name", name, "--dir", dir.to_str().unwrap()], token);
    if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
}

fn check(dir: &Path) -> Output {
    Command::new(program()).arg("check").arg("-config").arg(dir.join("peer.yaml")).output().unwrap()
}

#[track_caller]
fn is_whole(dir: &Path) {
    let output = check(dir);
    assert!(output.status.success(), "{}: {}", dir.display(), stderr(&output));
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["identity.pem", "network.key", "peer.yaml"]);
}

/// What is no name is refused before anything is written, and the right command works then; names stand in the file as they are.
pub fn names() {
    let dir = Dir::new();
    let token = token();
    let bad = [
        "my laptop",
        "x # y",
        "~",
        "*a",
        "'q",
        "\"q",
        "a: b",
        "-x",
        "x-",
        "a..b",
        ".lead",
        "trail.",
        "_lead",
        "kä",
        "",
        "wpad",
        "off",
        "null\n",
        "xn--a",
    ];
    let home = dir.0.join("home");
    for name in bad {
        // As one argument: what begins with a hyphen is no option.
        let equals = format!("--name={name}");
        for command in [&["join", "--no-start"][..], &["init", "--algorithm", "ed25519"]] {
            let mut args = command.to_vec();
            args.extend([equals.as_str(), "--dir", home.to_str().unwrap()]);
            let output = with_input(&args, &token);
            assert_eq!(output.status.code(), Some(2), "{name:?}: {}", stderr(&output));
            assert!(stderr(&output).contains("--name"), "{}", stderr(&output));
            assert!(!home.exists(), "{name:?}");
        }
    }
    for network in ["my home", "a/b", "", "x: y"] {
        let args = ["init", "--network", network, "--name", "a", "--dir", home.to_str().unwrap()];
        assert_eq!(Command::new(program()).args(args).output().unwrap().status.code(), Some(2), "{network:?}");
        assert!(!home.exists(), "{network:?}");
    }
    for name in ["web_01", "UPPER", "4", "0x1f", "1e3", "true", "null", "no-1", "a--b"] {
        let home = dir.0.join(name);
        join(&home, name, &token).unwrap();
        is_whole(&home);
        let shown = String::from_utf8_lossy(&check(&home).stdout).into_owned();
        assert!(shown.contains(&format!("node     {name} (")), "{shown}");
    }
    // In a file it is the same.
    for name in bad {
        let file = dir.0.join("bad.yaml");
        let quoted = serde_json::to_string(name).unwrap();
        fs::write(&file, format!("name: {quoted}\nnetwork: {{ name: home, secret_file: s }}\nstate_dir: state\n"))
            .unwrap();
        let output = Command::new(program()).arg("check").arg("-config").arg(&file).output().unwrap();
        assert!(
            output.status.code() == Some(2) && stderr(&output).contains(": name: "),
            "{name:?}: {}",
            stderr(&output)
        );
    }
}

/// A name with an underscore is in DNS.
pub fn underscore() {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let host = net.public("198.51.100.1".parse().unwrap()).unwrap();
    let mut web = node(
        &dir,
        "web_01",
        &format!("{}dns: {{ host: off, services: [{{ service: _http._tcp, port: 80 }}] }}\n", quiet()),
    );
    web.start(&host).unwrap();
    let (own, _) = need(&web, "addresses", || web.addresses());
    let ask = |name: &str, kind: u16| -> Option<Vec<u8>> {
        let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(labels.chain([0, (kind >> 8) as u8, kind as u8, 0, 1]));
        let answer = host.ns.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            socket.send_to(&question, (own, 53))?;
            let mut answer = vec![0; 1500];
            let n = socket.recv(&mut answer)?;
            answer.truncate(n);
            Ok(answer)
        });
        answer.ok().filter(|answer| answer.len() > 12 && answer[7] == 1)
    };
    let std::net::IpAddr::V4(v4) = own else { panic!("{own}") };
    let answer = need(&web, "answer", || ask("web_01.aegis", 1));
    assert!(answer.ends_with(&v4.octets()), "{answer:?}");
    assert!(ask("WEB_01.Aegis", 28).is_some());
    let back: Vec<String> = v4.octets().iter().rev().map(ToString::to_string).collect();
    let back = ask(&format!("{}.in-addr.arpa", back.join(".")), 12).expect("a name for the address");
    assert!(String::from_utf8_lossy(&back).contains("web_01"), "{back:?}");
    let service = ask("_http._tcp.web_01.aegis", 33).expect("its service");
    assert!(service.windows(2).any(|w| w == 80u16.to_be_bytes()), "{service:?}");
}

/// A set that is there is never touched; one that was half made by an attempt that was killed is made anew.
pub fn repeated() {
    let dir = Dir::new();
    let token = token();
    let home = dir.0.join("home");
    join(&home, "a", &token).unwrap();
    let before = fs::read(home.join("identity.pem")).unwrap();
    let error = join(&home, "a", &token).unwrap_err();
    assert!(error.contains("peer.yaml exists already: there is a node in this directory"), "{error}");
    assert_eq!(fs::read(home.join("identity.pem")).unwrap(), before);
    is_whole(&home);

    // Killed after any time: there is a node, or the same command makes one.
    let home = dir.0.join("killed");
    let arguments = ["init", "--algorithm", "ed25519", "--name", "a", "--dir"];
    let began = Instant::now();
    assert!(Command::new(program()).args(arguments).arg(dir.0.join("whole")).output().unwrap().status.success());
    let whole = began.elapsed();
    let (mut killed, mut made) = (0, 0);
    for n in 0..60 {
        let mut child = Command::new(program()).args(arguments).arg(&home).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * n / 50);
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal().is_some());
        if home.join("peer.yaml").exists() {
            made += 1;
            assert!(check(&home).status.success());
        } else {
            let again = Command::new(program()).args(arguments).arg(&home).output().unwrap();
            assert!(again.status.success(), "{}", stderr(&again));
            is_whole(&home);
        }
        fs::remove_dir_all(&home).unwrap();
    }
    println!("  killed {killed} of 60 times; a node was there {made} times");
    assert!(killed > 5);
}

/// A disk that is full at any step, and one that can't be written: nothing is left, and with room the same command works.
pub fn full_disks() {
    let dir = Dir::new();
    let mount = dir.0.join("disk");
    fs::create_dir(&mount).unwrap();
    let script = r#"
        set -eu
        mount -t tmpfs -o size=1m none "$1"
        list() { (cd "$1" && find . | sort | tr '\n' ' '); }
        left=0
        while :; do
            # Of the disk all but so many KiB is taken.
            head -c $(( (256 - left) * 4096 )) /dev/zero > "$1/others" || true
            if "$2" init --authority --algorithm ed25519 --name a --dir "$1/etc" > /dev/null 2> "$1.err"; then break; fi
            grep -q 'No space left' "$1.err" || { cat "$1.err"; exit 3; }
            [ "$(list "$1")" = '. ./others ' ] || { echo "left: $(list "$1")"; exit 4; }
            rm "$1/others"
            left=$((left + 1))
        done
        [ $left -gt 3 ] || { echo "never full: $left"; exit 5; }
        "$2" check -config "$1/etc/peer.yaml" > /dev/null
        rm "$1/others"
        mkdir "$1/ro"
        mount -o remount,ro "$1"
        if "$2" init --algorithm ed25519 --name a --dir "$1/ro" 2> "$1.err"; then exit 6; fi
        grep -q 'Read-only file system' "$1.err" || { cat "$1.err"; exit 7; }
        mount -o remount,rw "$1"
        [ "$(list "$1/ro")" = '. ' ]
        "$2" init --algorithm ed25519 --name a --dir "$1/ro" > /dev/null
        echo "full $left times"
    "#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&mount).arg(program());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{:?} {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        stderr(&output)
    );
    println!("  {}", String::from_utf8_lossy(&output.stdout).trim());
}

/// Tokens as mail programs, chats and people make them; and errors that are true.
pub fn tokens() {
    let dir = Dir::new();
    let token = token();
    let lines = |with: &str| {
        token.as_bytes().chunks(60).map(|c| String::from_utf8_lossy(c).into_owned()).collect::<Vec<_>>().join(with)
    };
    let shapes = [
        token.clone(),
        format!("{token}\r\n"),
        token.to_uppercase(),
        lines("\n"),
        lines("\r\n> "),
        lines("\u{200b}"),
        format!("\"{token}\""),
        format!("<{token}>\n"),
        format!("sudo aegisray join {token}\ngood for 24.0 h\n"),
    ];
    for (n, shape) in shapes.iter().enumerate() {
        join(&dir.0.join(format!("input{n}")), "a", shape).unwrap();
        // As an argument it is taken as well.
        let home = dir.0.join(format!("argument{n}"));
        let mut command = Command::new(program());
        let output =
            command.args(["join", shape.as_str(), "--no-start", "--name", "a", "--dir"]).arg(&home).output().unwrap();
        assert!(output.status.success(), "{shape}: {}", stderr(&output));
        assert!(stderr(&output).contains("the token stood on the command line"), "{}", stderr(&output));
        is_whole(&home);
    }
    let file = dir.0.join("token");
    fs::write(&file, &token).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let home = dir.0.join("file");
    let arguments =
        ["join", "--no-start", "--name", "a", "--token-file", file.to_str().unwrap(), "--dir", home.to_str().unwrap()];
    let output = Command::new(program()).args(arguments).output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("others can read"), "{}", stderr(&output));
    is_whole(&home);

    let expired = token_until(now() - 86_401);
    let changed = token.replacen("aegis1-", "aegis1-0", 1);
    for (wrong, says) in [
        ("", "no token on standard input"),
        ("hello", "one begins with `aegis1-`"),
        (&token[..token.len() - 1], "a part of the token is missing"),
        (&changed, "`0` is in no token"),
        ("aegis7-abc", "of another version"),
        (&expired, "this machine's clock says 2"),
        (&expired, "1 d later: if the clock is right, ask for a new token"),
    ] {
        let home = dir.0.join("wrong");
        let error = join(&home, "a", wrong).unwrap_err();
        assert!(error.contains(says) && !home.exists(), "{wrong}: {error}");
    }
}

/// The clock is named where it is the reason: a token, a certificate of this node's.
pub fn clocks() {
    let dir = Dir::new();
    let home = dir.0.join("early");
    let mut command = Command::new("faketime");
    command.args(["1970-01-02 00:00:00"]).arg(program()).args(["join", &token(), "--no-start", "--name", "a", "--dir"]);
    let output = command.arg(&home).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("this machine's clock says 1970-01-0") && told.contains("which can't be: set it"), "{told}");

    let home = dir.0.join("root");
    let args = ["init", "--authority", "--algorithm", "ed25519", "--name", "root", "--dir"];
    assert!(Command::new(program()).args(args).arg(&home).output().unwrap().status.success());
    let identity = keyfile::read_identity(&home.join("identity.pem")).unwrap();
    let authority = Authority::new(keyfile::read_identity(&home.join("authority.pem")).unwrap());
    let certify = |not_before, not_after| {
        let certificate = Certificate {
            node: identity.id(),
            name: "root".to_owned(),
            addresses: vec![],
            prefixes: vec![],
            groups: vec![],
            not_before,
            not_after,
            serial: [1; 16],
        };
        let pem = keyfile::pem_encode("AEGISRAY CERTIFICATE", &authority.issue(&certificate));
        keyfile::write_secret(&home.join("certificate.pem"), pem.as_bytes()).unwrap();
        let output = check(&home);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let early = certify(now() + 7200, now() + 86_400);
    assert!(
        early.contains("certificate will be valid in") && early.contains("this machine's clock, which says 2"),
        "{early}"
    );
    let late = certify(now() - 86_400, now() - 7200);
    assert!(late.contains("certificate expired 2 h ago") && late.contains("is it right?"), "{late}");
    assert!(!certify(now() - 10, now() + 10).contains("clock"));
}

/// Whoever reads the command lines of this machine finds no token on that of the daemon that `join` becomes.
pub fn command_line() {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let host = net.public("198.51.100.1".parse().unwrap()).unwrap();
    let token = token();
    for (n, argument) in [Some(token.as_str()), Some("-"), None].into_iter().enumerate() {
        let home = dir.0.join(format!("node{n}"));
        let mut command = host.ns.command(program());
        command.arg("join").args(argument).args(["--name", "a", "--dir"]).arg(&home);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(token.as_bytes());
        let running = Running(child);
        let pid = running.0.id();
        let socket = home.join("aegisray.sock");
        let answers = || aegisray::api::request(&socket, &aegisray::api::Request::Status).ok().map(drop);
        wait_for(PATIENCE, answers).expect("a daemon that answers");
        let seen = read_as_nobody(&format!("/proc/{pid}/cmdline"));
        assert!(!seen.contains("aegis1-") && !seen.contains("join"), "{seen}");
        assert!(seen.contains(&format!("--config={}", home.join("peer.yaml").display())), "{seen}");
        let of_system = read_as_nobody(&format!("/proc/{pid}/comm"));
        assert_eq!(of_system.trim(), program().file_name().unwrap().to_str().unwrap(), "what lists of processes show");
    }
}

/// As another user where this one may become one.
fn read_as_nobody(path: &str) -> String {
    let mut command = Command::new("cat");
    command.arg(path).uid(65_534).gid(65_534);
    let output = command.output().or_else(|_| Command::new("cat").arg(path).output()).unwrap();
    assert!(output.status.success(), "{path}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
