//! Files between daemons: over a relay, in pieces, with a crash on the way.

use std::{fs, path::Path, time::Duration};

use aegisray::{
    chatd::PIECE,
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    harness::Dir,
    people::{PATIENCE, PLATFORM, Person, RELAY, people, relay},
};

const SIZE: usize = 24 << 20;
const PIECES: usize = SIZE / PIECE;

/// Pieces that lie in a database.
fn pieces(dir: &Path) -> usize {
    let count = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = rusqlite::Connection::open_with_flags(dir.join("chat.db"), flags)?;
        db.query_row("SELECT count(*) FROM piece", [], |r| r.get::<_, i64>(0))
    };
    count().map_or(0, |n| usize::try_from(n).unwrap())
}

fn fetches(person: &Person, message: &str, to: &Path) -> std::process::Child {
    let mut command = person.daemon.command(&person.host);
    command.args(["chat", "get", PLATFORM, message, "--to"]).arg(to).arg("--socket").arg(person.daemon.socket());
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap()
}

pub fn files() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let relays = dir.0.join("relay");
    let _relay = relay(&mut internet, &relays, &["--listen", "0.0.0.0:8080"]);
    let mut all = people(&dir, &mut internet, &["ann", "bob"]);
    all.iter().for_each(|one| one.add_relay(&format!("ws://{RELAY}:8080/")));
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
    let bobs = all[1].daemon.dir.join("state/chat");
    let begun = wait_for(PATIENCE, || (pieces(&bobs) >= 8).then_some(()));
    all[1].daemon.kill();
    child.wait().unwrap();
    assert!(begun.is_some(), "nothing has come: {}", pieces(&bobs));
    let whole = wait_for(Duration::from_secs(60), || (pieces(&relays) == PIECES).then_some(()));
    assert!(whole.is_some(), "the relay has {} of {PIECES} pieces", pieces(&relays));
    all[0].daemon.kill();
    let before = pieces(&bobs);
    assert!(before < PIECES, "bob was killed too late");
    all[1].start();
    let start = std::time::Instant::now();
    let mut child = fetches(&all[1], &id, &two);
    let fetched = wait_for(Duration::from_secs(60), || child.try_wait().unwrap());
    let state = all[1].prints(&["show", PLATFORM, &id, "--json"]);
    assert!(fetched.is_some_and(|f| f.success()), "{state}\n{}", all[1].daemon.log_tail());
    assert!(fs::read(two.join("ducks.bin")).unwrap() == bytes, "it is the same file");
    println!(
        "  24 MiB: {before} of {PIECES} pieces were there when the daemon was killed, the rest came from the relay in {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
