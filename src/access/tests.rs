use std::net::IpAddr;

use super::*;
use crate::config::Segment;

const ME: &str = "100.64.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rule(verb: &str, who: &[&str], to: &[&str], ports: &[&str]) -> AccessRule {
    AccessRule {
        allow: verb == "allow",
        who: who.iter().map(|w| w.parse().unwrap()).collect(),
        to: to.iter().map(|t| t.parse().unwrap()).collect(),
        ports: ports.iter().map(|p| p.parse().unwrap()).collect(),
        line: 1,
    }
}

fn facts() -> Facts {
    let member = |n: u8, name: &str, groups: &[&str]| Member {
        id: NodeId([n; 32]),
        name: name.to_owned(),
        owns_name: true,
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        addresses: vec![[100, 64, 0, n].into(), format!("fd00::{n}").parse().unwrap()],
    };
    Facts {
        ranges: vec!["100.64.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
        here: vec![ip(ME), ip("fd00::1"), ip("198.51.100.7")],
        members: vec![member(2, "alice", &["admins"]), member(3, "bob", &[]), member(4, "eve", &["guests"])],
        clients: vec![("phone".to_owned(), vec![ip("10.86.86.2")])],
        interfaces: vec!["aegis0".to_owned(), "aegisp0".to_owned()],
    }
}

fn segments() -> Vec<Segment> {
    let segment = |name: &str, prefix: &str, policy| Segment {
        name: name.to_owned(),
        prefixes: vec![prefix.parse().unwrap()],
        policy,
    };
    vec![
        segment("cameras", "10.30.0.0/24", SegmentPolicy::LocalOnly),
        segment("visitors", "10.31.0.0/24", SegmentPolicy::InternetOnly),
        segment("printers", "10.86.86.4/32", SegmentPolicy::Strict),
        segment(PORTAL, "10.86.86.0/24", SegmentPolicy::Strict),
    ]
}

#[test]
fn the_first_rule_that_fits_decides_then_the_segment_then_the_default() {
    let access = Access {
        rules: vec![
            rule("allow", &["group:admins"], &["self"], &["22/tcp", "icmp"]),
            rule("deny", &["any"], &["self"], &["20-23/tcp"]),
            rule("allow", &["portal:phone"], &["internet", "100.64.0.0/16"], &[]),
        ],
        segments: segments(),
        default_allow: true,
    };
    let policy = Policy::new(&access, &facts());
    let decide = |source: &str, to: &str, protocol| {
        let decision = policy.decide(ip(source), ip(to), protocol);
        (decision.allowed, decision.because)
    };
    assert_eq!(decide("100.64.0.2", ME, Protocol::Tcp(22)), (true, Because::Rule(0)));
    assert_eq!(decide("fd00::2", "fd00::1", Protocol::Icmp), (true, Because::Rule(0)));
    assert_eq!(decide("100.64.0.3", ME, Protocol::Tcp(22)), (false, Because::Rule(1)));
    assert_eq!(decide("100.64.0.3", ME, Protocol::Udp(22)), (true, Because::Default));
    assert_eq!(decide("100.64.0.3", "192.168.7.9", Protocol::Tcp(22)), (true, Because::Default));
    assert_eq!(decide("100.64.0.4", ME, Protocol::Icmp), (false, Because::Guest));
    assert_eq!(decide("10.86.86.2", "203.0.113.80", Protocol::Tcp(443)), (true, Because::Rule(2)));
    assert_eq!(decide("10.86.86.2", ME, Protocol::Udp(53)), (true, Because::Names));
    assert_eq!(decide("10.86.86.4", ME, Protocol::Udp(53)), (true, Because::Names), "a client in another segment too");
    let portal = || Because::Segment(PORTAL.to_owned(), SegmentPolicy::Strict);
    assert_eq!(decide("10.86.86.3", "203.0.113.80", Protocol::Tcp(443)), (false, portal()));
    // The host's own public address is not the internet.
    assert_eq!(decide("10.86.86.2", "198.51.100.7", Protocol::Tcp(80)), (false, portal()));
    let visitors = Because::Segment("visitors".to_owned(), SegmentPolicy::InternetOnly);
    assert_eq!(decide("10.31.0.5", "203.0.113.80", Protocol::Udp(443)), (true, visitors.clone()));
    assert_eq!(decide("10.31.0.5", "192.168.1.1", Protocol::Tcp(80)), (false, visitors));
    let cameras = Because::Segment("cameras".to_owned(), SegmentPolicy::LocalOnly);
    assert_eq!(decide("10.30.0.5", "192.168.1.1", Protocol::Tcp(80)), (true, cameras.clone()));
    assert_eq!(decide("10.30.0.5", "203.0.113.80", Protocol::Tcp(443)), (false, cameras));
}

#[test]
fn what_lets_everything_through_needs_no_table() {
    let open = Access { rules: Vec::new(), segments: Vec::new(), default_allow: true };
    let mut facts = facts();
    assert!(!Policy::new(&open, &facts).is_open(), "there is a guest");
    facts.members.retain(|m| m.groups.is_empty());
    assert!(Policy::new(&open, &facts).is_open());
    assert!(!Policy::new(&Access { default_allow: false, ..open }, &facts).is_open());
}

#[test]
fn rules_read_as_they_are_written() {
    let text =
        rule("deny", &["group:a", "portal", "10.0.0.0/8", "bob"], &["self", "internet"], &["22/tcp", "1-9", "icmp"]);
    assert_eq!(text.to_string(), "deny group:a, portal, 10.0.0.0/8, bob to self, internet ports 22/tcp, 1-9, icmp");
    for bad in ["0", "70000", "9-1", "22/sctp", "http", ""] {
        assert!(bad.parse::<Ports>().is_err(), "{bad}");
    }
}

#[test]
fn of_two_that_are_certified_for_one_name_a_rule_allows_neither_and_refuses_both() {
    let mut facts = facts();
    for member in &mut facts.members[..2] {
        (member.name, member.owns_name) = ("Boss".to_owned(), false);
    }
    let policy = |verb: &str, default_allow| {
        let rules = vec![rule(verb, &["boss"], &[], &[])];
        Policy::new(&Access { rules, segments: vec![], default_allow }, &facts)
    };
    for source in ["100.64.0.2", "100.64.0.3"] {
        let decide = |policy: Policy| policy.decide(ip(source), ip(ME), Protocol::Tcp(22)).allowed;
        assert!(!decide(policy("allow", false)) && !decide(policy("deny", true)), "{source}");
    }
}
