//! Sites behind NAT routers of every kind, in real nftables (the terms are those of RFC 3489 §5 and RFC 4787).

use std::net::IpAddr;

use aegisray::lab::topology::{Host, Internet};

pub use super::firewall::nft;

/// What stands between a host and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering: most homes.
    PortRestricted,
    /// Address- and port-dependent mapping (random ports) and filtering.
    Symmetric,
    /// The same, but each flow gets the port after the one before.
    Counting,
    /// A port-restricted home behind a port-restricted carrier.
    Double,
    /// A full cone whose inside reaches itself at its public endpoints.
    Hairpin,
    /// No UDP passes.
    Blocked,
}

impl Kind {
    /// Those that let UDP through, and differ in who may speak first.
    pub const ALL: [Self; 6] =
        [Self::Open, Self::FullCone, Self::AddressRestricted, Self::PortRestricted, Self::Symmetric, Self::Double];

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "addr-restr",
            Self::PortRestricted => "port-restr",
            Self::Symmetric => "symmetric",
            Self::Counting => "counting",
            Self::Double => "double",
            Self::Hairpin => "hairpin",
            Self::Blocked => "blocked",
        }
    }
}

/// Ports of a counting router.
const COUNTED: u16 = 20_000;

/// A host and the routers between it and the internet, the outermost first.
pub struct Site {
    pub kind: Kind,
    /// The last byte of its public address.
    pub n: u8,
    pub routers: Vec<Host>,
    pub host: Host,
}

/// What home routers do beside NAT: nothing comes in uninvited, and it is dropped in silence.
const FIREWALL: &str = "
table inet fw {
  chain input { type filter hook input priority 0; policy accept; iifname eth0 meta l4proto udp drop; }
  chain forward { type filter hook forward priority 0; policy accept;
    ct state established,related accept; ct status dnat accept; iifname eth0 drop; }
}";

fn masquerade(how: &str) -> String {
    format!(
        "table ip nat {{\n chain post {{ type nat hook postrouting priority srcnat; oifname eth0 masquerade {how}; }}\n}}"
    )
}

/// A cone: a table of who may be reached at which port, made by what goes out.
fn cone(by_address: bool) -> String {
    let (remember, guard) = if by_address {
        (
            "oifname eth0 meta l4proto udp update @contacted { ip daddr . udp sport timeout 60s };",
            "ip saddr . udp dport @contacted",
        )
    } else {
        ("", "")
    };
    format!(
        "table ip nat {{
          map cone {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 60s; size 4096; }}
          set contacted {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 60s; size 4096; }}
          chain pre {{ type nat hook prerouting priority dstnat;
            iifname eth0 meta l4proto udp {guard} dnat to udp dport map @cone; }}
          chain post {{ type nat hook postrouting priority srcnat;
            oifname eth0 meta l4proto udp update @cone {{ udp sport timeout 60s : ip saddr }};
            {remember}
            oifname eth0 masquerade; }}
        }}"
    )
}

/// Ports one after another, from somewhere in the middle; all else as by a plain masquerade.
fn counting(n: u8) -> String {
    let ports: Vec<String> = (0..COUNTED).map(|i| format!("{i} : {}", 20_000 + 100 * u16::from(n) + i)).collect();
    format!(
        "table ip nat {{
          chain post {{ type nat hook postrouting priority srcnat;
            oifname eth0 meta l4proto udp snat to 203.0.113.{n} : numgen inc mod {COUNTED} map {{ {} }}
            oifname eth0 masquerade; }}
        }}",
        ports.join(", ")
    )
}

/// What comes from inside for the router's public address goes back inside.
fn hairpin(n: u8) -> String {
    format!(
        "
        add rule ip nat pre iifname lan0 ip daddr 203.0.113.{n} meta l4proto udp dnat to udp dport map @cone
        add rule ip nat post iifname lan0 oifname lan0 masquerade
        "
    )
}

impl Site {
    /// A site whose public address is 203.0.113.`n`.
    pub fn new(internet: &mut Internet, kind: Kind, n: u8) -> Self {
        let public = internet.public(IpAddr::from([203, 0, 113, n])).unwrap();
        if kind == Kind::Open {
            return Self { kind, n, routers: Vec::new(), host: public };
        }
        let mut routers = vec![public];
        if kind == Kind::Double {
            let home = routers[0].behind([10, 64, n]).unwrap();
            routers.push(home);
        }
        let host = routers[routers.len() - 1].behind([192, 168, n]).unwrap();
        for router in &routers {
            let nat = match kind {
                Kind::FullCone => cone(false),
                Kind::AddressRestricted => cone(true),
                Kind::Symmetric => masquerade("fully-random"),
                Kind::Counting => counting(n),
                Kind::Hairpin => cone(false) + &hairpin(n),
                Kind::Open | Kind::PortRestricted | Kind::Double | Kind::Blocked => masquerade(""),
            };
            nft(router, &format!("{FIREWALL}\n{nat}"));
            // The strictest routers forget a flow after 30 seconds (RFC 4787 §4.3 asks for two minutes).
            for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
                // An ordinary user may not set it; the kernel's own 30 and 120 seconds hold then.
                let _ = router.ns.run(|| std::fs::write(format!("/proc/sys/net/netfilter/{timeout}"), "30"));
            }
            if kind == Kind::Blocked {
                nft(router, "insert rule inet fw forward meta l4proto udp drop");
            }
        }
        Self { kind, n, routers, host }
    }
}
