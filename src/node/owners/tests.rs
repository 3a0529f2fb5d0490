//! Names, beginnings of NodeIds, free addresses: the book by itself.

use super::{former::MAX_REMEMBERED, *};
use crate::{
    crypto::SigningKey,
    identity::{Authority, Certificate, Identity, RecordContent},
};

fn identity(seed: u8) -> Identity {
    Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap()
}

fn id(seed: u8) -> NodeId {
    identity(seed).id()
}

fn authority() -> Authority {
    Authority::new(identity(200))
}

fn network() -> Network {
    Network::new("n", Some("secret"), Some(authority().spki().to_vec()), "100.64.0.0/28".parse().unwrap())
}

/// What a node says of itself; `certified`: the name in its certificate, empty: none, and addresses.
fn says(seed: u8, name: &str, certified: Option<(&str, &[&str])>) -> Verified {
    let certificate = certified.map(|(name, addresses)| Certificate {
        node: id(seed),
        name: name.to_owned(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        prefixes: vec![],
        groups: vec![],
        not_before: u64::from(seed),
        not_after: 1000,
        serial: [seed; 16],
    });
    let certificate = certificate.map(|c| authority().issue(&c)).unwrap_or_default();
    let content = RecordContent { name: name.to_owned(), certificate, ..Default::default() };
    identity(seed).announce(&network(), &content, 5, 60).unwrap()
}

fn book(all: &[Verified]) -> Owners {
    let mut book = Owners::new(id(100));
    all.iter().for_each(|known| book.insert(known, vec![]));
    book
}

#[test]
fn a_name_is_its_certificates_else_its_only_claimants_else_nobodys() {
    let mut book = book(&[
        says(1, "Alone", None),
        says(2, "twin", None),
        says(3, "TWIN", None),
        says(4, "boss", Some(("boss", &[]))),
        says(5, "Boss", None),
        says(6, "whoever", Some(("double", &[]))),
        says(7, "x", Some(("double", &[]))),
        says(8, "wpad", None),
        says(9, &id(4).to_string(), None),
        says(10, "a.boss", None),
    ]);
    assert_eq!(book.name_owner("alone"), Some(id(1)));
    assert_eq!((book.name(&id(1)), book.display(&id(1)).as_str()), (Some("Alone"), "Alone"));
    assert_eq!((book.name_owner("twin"), book.name(&id(2)), book.contested_name(&id(3))), (None, None, Some("TWIN")));
    assert_eq!(book.display(&id(2)), id(2).short());
    assert_eq!((book.name_owner("BOSS"), book.certified_name_owner("boss")), (Some(id(4)), Some(id(4))));
    assert_eq!(book.display(&id(5)), id(5).short(), "a certified name can't be taken");
    assert_eq!((book.name_owner("double"), book.certified_name_owner("double").is_some()), (None, true));
    for (seed, name) in [(8, "wpad".to_owned()), (9, id(4).to_string()), (10, "a.boss".to_owned())] {
        assert_eq!((book.name_owner(&name), book.name(&id(seed))), (None, None), "{name} is no name");
        assert!(book.addresses_of(&id(seed)).next().is_some(), "and hides nobody");
    }
    book.remove(&id(3));
    assert_eq!(book.name_owner("twin"), Some(id(2)));
    book.remove(&id(4));
    assert_eq!(book.name_owner("boss"), Some(id(5)), "a claim, as good as any");
    // Another certificate, the same node.
    book.insert(&says(5, "Boss", Some(("chief", &[]))), vec![]);
    assert_eq!((book.name_owner("boss"), book.name_owner("chief")), (None, Some(id(5))));
}

#[test]
fn what_people_write_finds_one_node_or_none() {
    let begins = |seed: u8, n: usize| id(seed).to_string()[..n].to_owned();
    let book = book(&[
        says(1, "alpha", None),
        says(2, &begins(1, 10), None),
        says(3, "x", Some((&begins(1, 8), &[]))),
        says(4, "twin", None),
        says(5, "twin", None),
    ]);
    assert_eq!((book.find("Alpha"), book.find(&id(1).to_string())), (Ok(id(1)), Ok(id(1))));
    assert_eq!(book.find(&begins(1, 12)), Ok(id(1)));
    assert_eq!(book.find(&begins(1, 5)), Err(NotFound::Unknown), "too short");
    assert_eq!(book.find(&begins(1, 10)), Err(NotFound::Several), "who calls itself so hides nobody");
    assert_eq!(book.find(&begins(1, 8)), Ok(id(3)), "but a certificate's name is one");
    assert_eq!((book.find("twin"), book.find("nobody")), (Err(NotFound::Several), Err(NotFound::Unknown)));
}

#[test]
fn a_free_address_is_nobodys_and_anyones_guess() {
    let network = network();
    let known = says(1, "a", None);
    let IpAddr::V4(first) = known.record.addresses[0] else { panic!() };
    let place = u64::from(u32::from(first) - u32::from(std::net::Ipv4Addr::new(100, 64, 0, 1)));
    let mut book = book(&[]);
    assert_eq!(book.free_ipv4(&network, &[], place), Some(first));
    book.insert(&known, vec![]);
    assert_ne!(book.free_ipv4(&network, &[], place), Some(first));
    book.remove(&id(1));
    assert_ne!(book.free_ipv4(&network, &[], place), Some(first), "its node may come back");
    let mut taken = Vec::new();
    while let Some(ip) = book.free_ipv4(&network, &taken, u64::MAX) {
        assert!(network.cidr().contains(ip.into()) && !taken.contains(&ip.into()));
        taken.push(ip.into());
    }
    assert_eq!(taken.len(), 13, "until the range is full");
}

#[test]
fn who_had_an_address_first_finds_it_again_within_two_hours() {
    let key =
        |n: u64| Identity::new(SigningKey::ed25519_from_seed(&crate::crypto::sha256(&[&n.to_be_bytes()]))).unwrap();
    let network = network();
    let one = says(1, "a", None);
    let ip = one.record.addresses[0];
    let rival = (0..).map(key).find(|k| IpAddr::V4(network.ipv4(&k.id(), 0)) == ip).unwrap();
    let rival = rival.announce(&network, &RecordContent::default(), 5, 60).unwrap();
    for (away, keeps) in [(7199, true), (7200, false)] {
        let mut book = book(&[]);
        book.has_met = true;
        book.tick(Instant(0));
        book.tick(Instant(60_000_000));
        book.insert(&one, vec![]);
        book.insert(&rival, vec![]);
        assert_eq!(book.host(&ip), Some(id(1)));
        // There was no room for it, or it slept.
        book.remove(&id(1));
        assert_eq!(book.host(&ip), Some(rival.id));
        book.tick(Instant(60_000_000) + Duration::from_secs(away));
        book.insert(&one, vec![]);
        assert_eq!(book.host(&ip) == Some(id(1)), keeps, "after {away} s");
    }
    let mut book = book(&[]);
    for n in 0..5000 {
        let content = RecordContent::default();
        let known = key(n).announce(&network, &content, 5, 60).unwrap();
        book.insert(&known, vec![]);
        book.remove(&known.id);
    }
    assert_eq!(book.former.len(), MAX_REMEMBERED);
    assert!(book.former.keys().any(|(node, _)| *node == key(0).id()), "the oldest stay");
}

#[test]
fn what_is_claimed_again_is_claimed_since_then() {
    let network = network();
    let one = says(1, "a", None);
    let ip = one.record.addresses[0];
    let granted = |seed: u8| says(seed, "b", Some(("", &[&ip.to_string()])));
    let mut book = book(&[one]);
    book.insert(&granted(3), vec![]);
    book.insert(&granted(2), vec![]);
    assert_eq!(book.host(&ip), Some(id(2)), "of two grants the older one, whichever was known first");
    book.insert(&says(1, "renamed", None), vec![]);
    book.remove(&id(2));
    book.remove(&id(3));
    assert_eq!(book.host(&ip), Some(id(1)));
    assert!(network.cidr().contains(ip));
    assert_eq!(book.by_age(), [id(1)]);
}
