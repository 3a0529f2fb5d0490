//! Configuration files.
#![no_main]

use std::path::Path;

use aegisray::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files may be named, but none is there to be read or made.
    let text = format!("state_dir: /proc/nonexistent\n{text}");
    if let Err(e) = Config::parse(Path::new("/proc/nonexistent/peer.yaml"), &text) {
        let _ = e.to_string();
    }
});
