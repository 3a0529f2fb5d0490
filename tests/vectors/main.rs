//! What was on the wire, once for each version of the protocol, must be understood by every later one that still claims to
//! speak it. `tests/vectors/v1/vectors.json` holds recordings of version 1, made with fixed keys; this test reads them with
//! today's code, and compares them with what today's code writes.
//!
//! `AEGISRAY_RECORD=1 cargo test --test vectors` records them. That is done once for a version: afterwards its file is never
//! changed, and a test that fails says that a change needs a version of its own (docs/protocol.md).

mod form;
mod make;
mod read;

use std::{fs, path::PathBuf, sync::Once};

use form::Vectors;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/v1/vectors.json")
}

fn recorded() -> Vectors {
    static RECORDED: Once = Once::new();
    if std::env::var_os("AEGISRAY_RECORD").is_some() {
        RECORDED.call_once(record);
    }
    let text = fs::read_to_string(path()).expect("tests/vectors/v1/vectors.json is there");
    serde_json::from_str(&text).expect("the recorded vectors have their form")
}

fn record() {
    let all = make::all(&make::fresh_kem());
    fs::create_dir_all(path().parent().expect("a directory")).expect("the directory can be made");
    let text = serde_json::to_string_pretty(&all).expect("vectors are JSON");
    fs::write(path(), text + "\n").expect("the file can be written");
}

/// What today's code writes is what was recorded, so nothing has changed on the wire.
#[test]
fn todays_code_writes_the_same() {
    let recorded = recorded();
    let now = make::all(&recorded.kem);
    // One by one, so that a difference is short.
    assert_eq!(now.networks, recorded.networks);
    assert_eq!(now.announcements, recorded.announcements);
    assert_eq!(now.certificates, recorded.certificates);
    assert_eq!(now.revocations, recorded.revocations);
    assert_eq!(now.invites, recorded.invites);
    assert_eq!(now.beacons, recorded.beacons);
    assert_eq!(now.handshakes, recorded.handshakes);
    assert_eq!(now.frames, recorded.frames);
    assert_eq!(now.control, recorded.control);
}
