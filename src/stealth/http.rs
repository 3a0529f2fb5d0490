//! The request and the answer with which two nodes turn a visit of the site into a stream. Both are a browser's and a
//! server's when a WebSocket is opened (RFC 6455 §4), with the proofs as cookies.

use std::io;

use super::tls::Tls;
use crate::crypto::HmacKey;

pub(super) const END: &[u8] = b"\r\n\r\n";
/// Longer requests are a browser's.
pub(super) const MAX_HEAD: usize = 8192;
const MAX_FILLER: usize = MAX_HEAD - 1024;
/// About what a request and an answer weigh without padding.
pub(super) const REQUEST: usize = 330;
pub(super) const ANSWER: usize = 160;
const COOKIE: &str = "sid=";

/// What the two ends of one connection show each other.
pub(super) struct Proofs {
    pub client: String,
    pub server: String,
}

impl Proofs {
    /// The proofs of members of the network, on this connection only: nobody can use them on another one.
    pub fn of(tls: &Tls, network: &HmacKey) -> io::Result<Self> {
        let binding = tls.binding()?;
        let proof = |label: &[u8]| data_encoding::BASE64URL_NOPAD.encode(&network.tag(&[label, &binding]));
        Ok(Self { client: proof(b"aegisray door client v1"), server: proof(b"aegisray door server v1") })
    }
}

fn filler(n: usize) -> String {
    "0".repeat(n.min(MAX_FILLER))
}

/// What a member asks for; `key` is 16 random bytes; `padding` is how much longer it is to be.
pub(super) fn request(host: &str, key: [u8; 16], proofs: &Proofs, padding: usize) -> Vec<u8> {
    let key = data_encoding::BASE64.encode(&key);
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
         Upgrade: websocket\r\nOrigin: https://{host}\r\nSec-WebSocket-Version: 13\r\nCookie: {COOKIE}{}; v={}\r\n\
         Sec-WebSocket-Key: {key}\r\n\r\n",
        proofs.client,
        filler(padding)
    )
    .into_bytes()
}

pub(super) fn answer(proofs: &Proofs, padding: usize) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: {COOKIE}{}\r\n\
         Set-Cookie: v={}\r\n\r\n",
        proofs.server,
        filler(padding)
    )
    .into_bytes()
}

/// Where the head of a message ends, if it is whole.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END.len()).position(|w| w == END).map(|at| at + END.len())
}

/// Whether a head carries this proof.
pub(super) fn shows(head: &[u8], proof: &str) -> bool {
    let Ok(text) = std::str::from_utf8(head) else { return false };
    let mut cookies = text.lines().filter_map(|line| line.split_once(": ")).filter_map(|(name, value)| {
        let is_cookie = name.eq_ignore_ascii_case("cookie") || name.eq_ignore_ascii_case("set-cookie");
        value.split("; ").find_map(|v| v.strip_prefix(COOKIE)).filter(|_| is_cookie)
    });
    cookies.any(|c| aws_lc_rs::constant_time::verify_slices_are_equal(c.as_bytes(), proof.as_bytes()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_found_where_they_belong_and_nowhere_else() {
        let proofs = Proofs { client: "abc".to_owned(), server: "xyz".to_owned() };
        let request = request("www.example.org", [7; 16], &proofs, 200);
        assert_eq!(head_end(&request), Some(request.len()));
        assert!(shows(&request, "abc") && !shows(&request, "xyz") && !shows(&request, ""));
        assert!(shows(&answer(&proofs, 3000), "xyz"));
        assert!(!shows(b"GET /sid=abc HTTP/1.1\r\nHost: sid=abc\r\n\r\n", "abc"));
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nHost: x\r\n"), None);
        assert!(!shows(&[0xff; 40], "abc"));
    }
}
