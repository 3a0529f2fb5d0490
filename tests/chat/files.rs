//! Files between daemons: over a relay, in pieces, with a crash on the way.

use std::{fs, path::Path, time::Duration};

use aegisray::lab::{daemon::wait_for, topology::Internet};

use super::{
    harness::{Dir, program},
    people::{PLATFORM, Person, people},
    running::Running,
};
use aegisray::chatd::Request as Ask;

const RELAY: &str = "203.0.113.100";
const SIZE: usize = 24 << 20;

fn fetches(person: &Person, message: &str, to: &Path) -> std::process::Child {
    let mut command = person.daemon.command(&person.host);
    command.args(["chat", "get", PLATFORM, message, "--to"]).arg(to).arg("--socket").arg(person.daemon.socket());
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap()
}

pub fn files() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let server = internet.public(RELAY.parse().unwrap()).unwrap();
    let mut command = server.ns.command(program());
    command.args(["chat-relay", "--listen", "0.0.0.0:8080", "--dir"]).arg(dir.0.join("relay"));
    let _relay = Running::start(command);
    let mut all = people(&dir, &mut internet, &["ann", "bob"]);
    for one in &all {
        one.done(Ask::AddRelay { url: format!("ws://{RELAY}:8080/") });
    }
    all[0].found();
    all[1].join();
    // No two pieces are alike.
    let bytes: Vec<u8> = (0..SIZE as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let path = dir.0.join("ducks.bin");
    fs::write(&path, &bytes).unwrap();
    let id = all[0].prints(&["send", PLATFORM, "general", "a file", "--file", &path.to_string_lossy()]);
    all[1].need_text("a file");
    assert!(all[1].prints(&["show", PLATFORM, &id]).contains("[file: ducks.bin, 25165824 bytes]"));
    let (one, two) = (dir.0.join("one"), dir.0.join("two"));
    fs::create_dir_all(&one).unwrap();
    fs::create_dir_all(&two).unwrap();
    let mut child = fetches(&all[1], &id, &one);
    // Bob's daemon is killed on the way, and the sender's when the relay has it all.
    let database = |name: &Path| {
        fs::read_dir(name).map_or(0, |all| all.flatten().map(|f| f.metadata().map_or(0, |m| m.len())).sum())
    };
    let bobs = all[1].daemon.dir.join("state/chat");
    let some = || (database(&bobs) > 4 << 20).then_some(());
    let begun = wait_for(Duration::from_secs(20), some);
    all[1].daemon.kill();
    child.wait().unwrap();
    assert!(begun.is_some(), "nothing has come: {}", database(&bobs));
    let relays = dir.0.join("relay");
    // The journal holds some of it twice: it has all when nothing more comes.
    let whole = || {
        let before = database(&relays);
        std::thread::sleep(Duration::from_secs(4));
        (before > SIZE as u64 && before == database(&relays)).then_some(())
    };
    wait_for(Duration::from_secs(60), whole).expect("the relay has it");
    all[0].daemon.kill();
    let before = database(&bobs);
    all[1].start();
    let start = std::time::Instant::now();
    let mut child = fetches(&all[1], &id, &two);
    let fetched = wait_for(Duration::from_secs(60), || child.try_wait().unwrap());
    let state = all[1].prints(&["show", PLATFORM, &id, "--json"]);
    assert!(fetched.is_some_and(|f| f.success()), "{state}\n{}", all[1].daemon.log_tail());
    assert!(fs::read(two.join("ducks.bin")).unwrap() == bytes, "it is the same file");
    println!(
        "  24 MiB: {} MiB were there when the daemon was killed, the rest came from the relay in {:.1} s",
        before >> 20,
        start.elapsed().as_secs_f64()
    );
}
