//! A network: the secrets that hide it and the addresses that it hands out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::{
    crypto::{HmacKey, hkdf_sha256, sha256, stretch},
    types::{IpPrefix, NodeId},
};

/// How many IPv4 addresses derive from one NodeId; a node moves to another one when somebody else has its address.
pub const IPV4_ATTEMPTS: u32 = 32;

/// Bytes of a generated secret; 43 characters in base64url, as `init` writes them.
const GENERATED: usize = 32;

/// The secret as keys are derived from it. A generated one can't be guessed and is taken as it is; one that a person chose is
/// stretched, so that a recorded handshake isn't tried against a billion words a second.
fn key_material(secret: &str, salt: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let is_generated = BASE64URL_NOPAD.decode(secret.as_bytes()).is_ok_and(|bytes| bytes.len() == GENERATED);
    Zeroizing::new(if is_generated { secret.as_bytes().to_vec() } else { stretch(secret.as_bytes(), salt).to_vec() })
}

/// What all nodes of a network share. Two nodes with another name, secret or authority can't even exchange a
/// datagram that the other one answers.
#[derive(Clone, Debug)]
pub struct Network {
    name: String,
    id: [u8; 16],
    gate: HmacKey,
    psk: Zeroizing<[u8; 32]>,
    beacon: Zeroizing<[u8; 32]>,
    authority: Option<Vec<u8>>,
    cidr: (Ipv4Addr, u8),
    ula: [u8; 8],
}

impl Network {
    /// Derives the network's keys from its name, its secret and its authority's SPKI. `cidr` is an IPv4 prefix with a
    /// length of 8 to 28. A secret that isn't of the generated form costs 64 MiB and some tenths of a second, once a process
    /// (Argon2id, RFC 9106; the salt is of name and authority, so all nodes of a network derive the same).
    #[must_use]
    pub fn new(name: &str, secret: Option<&str>, authority: Option<Vec<u8>>, cidr: IpPrefix) -> Self {
        let salt = sha256(&[b"aegisray network v1", &sha256(&[name.as_bytes()]), authority.as_deref().unwrap_or(b"")]);
        let material = secret.map(|secret| key_material(secret, &salt)).unwrap_or_default();
        let derive = |info: &[u8]| {
            let mut out = Zeroizing::new([0; 32]);
            hkdf_sha256(&salt, &material, &[info], &mut *out);
            out
        };
        let public = derive(b"public");
        let mut ula = [0; 8];
        ula[0] = 0xfd;
        ula[1..].copy_from_slice(&public[16..23]);
        let mut id = [0; 16];
        id.copy_from_slice(&public[..16]);
        let IpAddr::V4(base) = cidr.addr() else { unreachable!("the configuration takes IPv4 only") };
        Self {
            name: name.to_owned(),
            id,
            gate: HmacKey::new(&derive(b"gate")),
            psk: derive(b"psk"),
            beacon: derive(b"beacon"),
            authority,
            cidr: (base, cidr.prefix_len()),
            ula,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells networks apart in signatures; not a secret.
    #[must_use]
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Keys the MAC that every handshake datagram must carry before anything is done for it.
    #[must_use]
    pub fn gate(&self) -> &HmacKey {
        &self.gate
    }

    /// The pre-shared key of every Noise handshake.
    #[must_use]
    pub fn psk(&self) -> &[u8; 32] {
        &self.psk
    }

    /// Seals LAN beacons and cookies.
    #[must_use]
    pub fn beacon_key(&self) -> &[u8; 32] {
        &self.beacon
    }

    /// The authority's SPKI, if membership needs certificates.
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.as_deref()
    }

    /// The IPv4 range of the mesh.
    #[must_use]
    pub fn cidr(&self) -> IpPrefix {
        IpPrefix::new(self.cidr.0.into(), self.cidr.1).expect("made from a prefix")
    }

    /// The IPv6 range of the mesh: a unique local /64 (RFC 4193) of this network.
    #[must_use]
    pub fn ula(&self) -> IpPrefix {
        IpPrefix::new(self.ipv6(&NodeId([0; 32])).into(), 64).expect("64 is in range")
    }

    /// The IPv6 mesh address of a node.
    #[must_use]
    pub fn ipv6(&self, node: &NodeId) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.ula);
        octets[8..].copy_from_slice(&sha256(&[b"aegisray ipv6", &node.0])[..8]);
        octets.into()
    }

    /// The IPv4 mesh address of a node at `attempt` (0 to [`IPV4_ATTEMPTS`] - 1). Never the range's first or last.
    #[must_use]
    pub fn ipv4(&self, node: &NodeId, attempt: u32) -> Ipv4Addr {
        let hash = sha256(&[b"aegisray ipv4", &node.0, &attempt.to_be_bytes()]);
        let wide = u64::from_be_bytes(hash[..8].try_into().expect("8 of 32 bytes"));
        let hosts = (1u64 << (32 - self.cidr.1)) - 2;
        Ipv4Addr::from(u32::from(self.cidr.0) + 1 + (wide % hosts) as u32)
    }

    /// All IPv4 addresses that nodes may have, once each, from the `place`th on (modulo their number).
    pub fn ipv4_from(&self, place: u64) -> impl Iterator<Item = Ipv4Addr> {
        let (first, hosts) = (u32::from(self.cidr.0) + 1, (1u64 << (32 - self.cidr.1)) - 2);
        (0..hosts).map(move |i| Ipv4Addr::from(first + ((place % hosts + i) % hosts) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_chose_is_stretched_and_what_was_generated_is_not() {
        let salt = [7; 32];
        let generated = BASE64URL_NOPAD.encode(&[0xa5; GENERATED]);
        assert_eq!(generated.len(), 43);
        assert_eq!(*key_material(&generated, &salt), *generated.as_bytes());
        for chosen in
            ["correct-horse-battery-staple", &generated[1..], &format!("{generated}A"), &generated.replace('p', "+")]
        {
            let material = key_material(chosen, &salt);
            assert_ne!(*material, *chosen.as_bytes());
            assert_eq!(*material, stretch(chosen.as_bytes(), &salt));
        }
    }

    #[test]
    fn addresses_stay_in_range_and_networks_differ() {
        let cidr = "100.64.0.0/28".parse().unwrap();
        let a = Network::new("home", Some("one secret of many words"), None, cidr);
        let b = Network::new("home", Some("two secrets of many words"), None, cidr);
        assert_ne!(a.id(), b.id());
        assert_ne!(a.psk(), b.psk());
        for i in 0..200 {
            let node = NodeId([i; 32]);
            for attempt in 0..IPV4_ATTEMPTS {
                let ip = u32::from(a.ipv4(&node, attempt));
                let base = u32::from(Ipv4Addr::new(100, 64, 0, 0));
                assert!(ip > base && ip < base + 15);
            }
            assert!(a.ula().contains(a.ipv6(&node).into()));
        }
    }
}
