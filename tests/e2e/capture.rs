//! Looking for bytes on a cable.

use std::io;

use aegisray::lab::topology::Host;

use super::watch::watch;

/// Counts frames on the interfaces of a host that contain `needle`, while `during` runs. Returns (frames with it, bytes of
/// all).
pub fn capture(host: &Host, needle: &[u8], during: impl FnOnce()) -> io::Result<(usize, usize)> {
    let (mut hits, mut bytes) = (0, 0);
    let count = |frame: &[u8]| {
        bytes += frame.len();
        hits += usize::from(frame.windows(needle.len()).any(|w| w == needle));
    };
    watch(host, count, during)?;
    Ok((hits, bytes))
}
