//! IP prefixes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Not the internet: private and special addresses (RFC 6890).
pub const SPECIAL4: [&str; 8] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
];
pub const SPECIAL6: [&str; 6] = ["::/127", "::ffff:0:0/96", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "ff00::/8"];

/// An IPv4 or IPv6 prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    addr: IpAddr,
    len: u8,
}

/// Why a text is no prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParsePrefixError {
    #[error("expected ADDRESS/LENGTH, for example 192.168.7.0/24 or fd00::/64")]
    Shape,
    #[error("prefix length must be 0 to {0}")]
    Length(u8),
    #[error("host bits are set: did you mean {0}?")]
    HostBits(IpPrefix),
}

/// An address as 128 bits, IPv4 left-aligned, so that one mask serves both families.
fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    }
}

fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) }
}

impl IpPrefix {
    /// Makes a prefix and clears the host bits. `None` when `len` exceeds the family's width.
    #[must_use]
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        if len > width(addr) {
            return None;
        }
        let cut = bits(addr) & mask(len);
        let addr = match addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from((cut >> 96) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(cut)),
        };
        Some(Self { addr, len })
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.addr) || other.contains(self.addr)
    }

    /// The prefix that holds just this address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: width(addr) }
    }

    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// The name of its family, as nftables and ip(8) have it.
    #[must_use]
    pub fn family(&self) -> &'static str {
        if self.addr.is_ipv4() { "ip" } else { "ip6" }
    }

    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4() && (bits(addr) & mask(self.len)) == bits(self.addr)
    }

    /// Whether every address of `other` is in this prefix.
    #[must_use]
    pub fn covers(&self, other: &IpPrefix) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }
}

fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for IpPrefix {
    type Err = ParsePrefixError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (addr, len) = s.split_once('/').ok_or(ParsePrefixError::Shape)?;
        let addr: IpAddr = addr.parse().map_err(|_| ParsePrefixError::Shape)?;
        let len: u8 = len.parse().map_err(|_| ParsePrefixError::Length(width(addr)))?;
        let prefix = Self::new(addr, len).ok_or(ParsePrefixError::Length(width(addr)))?;
        if prefix.addr != addr {
            return Err(ParsePrefixError::HostBits(prefix));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_contain_cover() {
        let lan: IpPrefix = "192.168.4.0/22".parse().unwrap();
        assert!(lan.contains("192.168.7.255".parse().unwrap()));
        assert!(!lan.contains("192.168.8.0".parse().unwrap()));
        assert!(!lan.contains("::1".parse().unwrap()));
        assert!(lan.covers(&"192.168.5.0/24".parse().unwrap()));
        assert!(!"192.168.5.0/24".parse::<IpPrefix>().unwrap().covers(&lan));
        let all: IpPrefix = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()));
        assert_eq!(
            "10.0.0.1/8".parse::<IpPrefix>().unwrap_err().to_string(),
            "host bits are set: did you mean 10.0.0.0/8?"
        );
        assert_eq!("10.0.0.0/33".parse::<IpPrefix>(), Err(ParsePrefixError::Length(32)));
        assert_eq!("10.0.0.0".parse::<IpPrefix>(), Err(ParsePrefixError::Shape));
    }
}
