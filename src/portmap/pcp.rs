//! PCP (RFC 6887) and its forerunner NAT-PMP (RFC 6886): a datagram asks the router, a datagram answers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Mapping, PortMapError};

/// Where routers listen for both (RFC 6887 §19.1).
pub const PORT: u16 = 5351;
const UDP: u8 = 17;
const MAP: u8 = 1;
const ANSWER: u8 = 0x80;

/// What is asked for: the port inside, the port outside if one was given before, seconds (0: remove).
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub client: Ipv4Addr,
    pub port: u16,
    pub outside: u16,
    pub lifetime_s: u32,
    pub nonce: [u8; 12],
}

/// A PCP MAP request (RFC 6887 §7.1 and §11.1).
#[must_use]
pub fn pcp_request(r: &Request) -> Vec<u8> {
    let mut out = vec![2, MAP, 0, 0];
    out.extend_from_slice(&r.lifetime_s.to_be_bytes());
    out.extend_from_slice(&r.client.to_ipv6_mapped().octets());
    out.extend_from_slice(&r.nonce);
    out.extend_from_slice(&[UDP, 0, 0, 0]);
    out.extend_from_slice(&r.port.to_be_bytes());
    out.extend_from_slice(&r.outside.to_be_bytes());
    out.extend_from_slice(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    out
}

/// Asks whether a router speaks PCP, and changes nothing (RFC 6887 §14.1).
#[must_use]
pub fn announce_request() -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 0, 0, 0];
    out.extend_from_slice(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    out
}

/// Whether a datagram is an answer of a router that speaks PCP.
#[must_use]
pub fn is_pcp(datagram: &[u8]) -> bool {
    datagram.len() >= 24 && datagram[0] == 2 && datagram[1] & ANSWER != 0
}

/// The answer to [`pcp_request`] (RFC 6887 §7.2 and §11.1); `None`: not an answer to this one.
pub fn pcp_answer(r: &Request, datagram: &[u8]) -> Option<Result<Mapping, PortMapError>> {
    if datagram.len() < 4 || datagram[0] != 2 || datagram[1] != MAP | ANSWER {
        return None;
    }
    // A refusal repeats the request, its nonce too (RFC 6887 §7.2): only who has seen that can refuse.
    let body = datagram.get(24..60)?;
    if body[..12] != r.nonce || body[12] != UDP || body[16..18] != r.port.to_be_bytes() {
        return None;
    }
    if datagram[3] != 0 {
        return Some(Err(PortMapError::Refused(u16::from(datagram[3]))));
    }
    let outside: [u8; 16] = body[20..36].try_into().ok()?;
    let ip = Ipv6Addr::from(outside).to_canonical();
    Some(Ok(Mapping {
        external: SocketAddr::new(ip, u16::from_be_bytes([body[18], body[19]])),
        lifetime_s: u32::from_be_bytes(datagram[4..8].try_into().ok()?),
    }))
}

/// Asks for the router's public address (RFC 6886 §3.2).
#[must_use]
pub fn natpmp_address_request() -> Vec<u8> {
    vec![0, 0]
}

/// The answer to [`natpmp_address_request`].
pub fn natpmp_address(datagram: &[u8]) -> Option<Result<Ipv4Addr, PortMapError>> {
    if datagram.len() < 12 || datagram[0] != 0 || datagram[1] != ANSWER {
        return None;
    }
    let result = u16::from_be_bytes([datagram[2], datagram[3]]);
    let ip: [u8; 4] = datagram[8..12].try_into().ok()?;
    Some(if result == 0 { Ok(ip.into()) } else { Err(PortMapError::Refused(result)) })
}

/// A NAT-PMP mapping request for UDP (RFC 6886 §3.3).
#[must_use]
pub fn natpmp_request(r: &Request) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0];
    out.extend_from_slice(&r.port.to_be_bytes());
    out.extend_from_slice(&r.outside.to_be_bytes());
    out.extend_from_slice(&r.lifetime_s.to_be_bytes());
    out
}

/// The answer to [`natpmp_request`]: the public port and its seconds.
pub fn natpmp_answer(r: &Request, datagram: &[u8]) -> Option<Result<(u16, u32), PortMapError>> {
    if datagram.len() < 4 || datagram[0] != 0 || datagram[1] != 1 | ANSWER {
        return None;
    }
    let result = u16::from_be_bytes([datagram[2], datagram[3]]);
    if result != 0 {
        return Some(Err(PortMapError::Refused(result)));
    }
    let body = datagram.get(8..16)?;
    (body[..2] == r.port.to_be_bytes())
        .then(|| Ok((u16::from_be_bytes([body[2], body[3]]), u32::from_be_bytes([body[4], body[5], body[6], body[7]]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request =
        Request { client: Ipv4Addr::new(192, 168, 1, 2), port: 51_900, outside: 0, lifetime_s: 3600, nonce: [7; 12] };

    #[test]
    fn pcp_answers_are_matched_and_refusals_told() {
        let mut answer = pcp_request(&REQUEST);
        assert_eq!(answer.len(), 60);
        answer[1] |= ANSWER;
        answer[42..44].copy_from_slice(&40_000u16.to_be_bytes());
        answer[44..60].copy_from_slice(&Ipv4Addr::new(198, 51, 100, 1).to_ipv6_mapped().octets());
        let expected = Mapping { external: "198.51.100.1:40000".parse().unwrap(), lifetime_s: 3600 };
        assert_eq!(pcp_answer(&REQUEST, &answer), Some(Ok(expected)));
        assert_eq!(pcp_answer(&Request { nonce: [8; 12], ..REQUEST }, &answer), None, "someone else's");
        answer[3] = 2;
        assert_eq!(pcp_answer(&REQUEST, &answer), Some(Err(PortMapError::Refused(2))));
        assert_eq!(pcp_answer(&Request { nonce: [8; 12], ..REQUEST }, &answer), None, "nobody else refuses");
        assert_eq!(pcp_answer(&REQUEST, &answer[..24]), None);
        assert_eq!(pcp_answer(&REQUEST, &pcp_request(&REQUEST)), None, "a request is no answer");
    }

    #[test]
    fn nat_pmp_as_in_the_rfc() {
        let address = [0, 128, 0, 0, 0, 0, 0, 1, 198, 51, 100, 1];
        assert_eq!(natpmp_address(&address), Some(Ok(Ipv4Addr::new(198, 51, 100, 1))));
        let mut mapped = vec![0, 129, 0, 0, 0, 0, 0, 1];
        mapped.extend_from_slice(&51_900u16.to_be_bytes());
        mapped.extend_from_slice(&40_000u16.to_be_bytes());
        mapped.extend_from_slice(&7200u32.to_be_bytes());
        assert_eq!(natpmp_answer(&REQUEST, &mapped), Some(Ok((40_000, 7200))));
        assert_eq!(natpmp_answer(&REQUEST, &mapped[..12]), None);
        assert_eq!(natpmp_answer(&REQUEST, &[0, 129, 0, 3]), Some(Err(PortMapError::Refused(3))));
    }
}
