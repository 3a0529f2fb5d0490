//! Who reaches whom directly.

use std::time::{Duration, Instant};

use aegisray::{
    api::{Request, Response},
    lab::{daemon::Daemon, topology::Internet},
};

use super::{
    harness::{Dir, bootstrap, need_route, node, quiet},
    routers::{Kind, Site},
};

const HUB: &str = "203.0.113.250";

pub fn every_pair() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let hub = internet.public(HUB.parse().unwrap()).unwrap();
    let mut b = node(&dir, "hub", &quiet());
    b.start(&hub).unwrap();
    let mut sites: Vec<(Site, Daemon)> = Vec::new();
    for (i, kind) in Kind::ALL.into_iter().chain(Kind::ALL).enumerate() {
        let site = Site::new(&mut internet, kind, 1 + i as u8);
        let name = format!("{}-{}", kind.name(), 1 + i / Kind::ALL.len());
        let mut daemon = node(&dir, &name, &bootstrap(HUB));
        daemon.start(&site.host).unwrap();
        sites.push((site, daemon));
    }
    let started = Instant::now();
    for (_, from) in &sites {
        for (_, to) in sites.iter().filter(|(_, d)| d.name != from.name) {
            need_route(from, &to.name);
        }
    }
    println!("  all routes after {:.1} s", started.elapsed().as_secs_f64());
    let end = Instant::now() + Duration::from_secs(15);
    let mut lost = Vec::new();
    while Instant::now() < end {
        for (_, from) in &sites {
            for (_, to) in sites.iter().filter(|(_, d)| d.name != from.name) {
                let answer = from.ask(&Request::Ping { node: to.name.clone(), size: 0 });
                if !matches!(answer, Ok(Response::Pong { .. })) {
                    lost.push((from.name.clone(), to.name.clone()));
                }
            }
        }
    }
    println!("  lost echoes: {lost:?}");
    print!("{:<12}", "");
    Kind::ALL.iter().for_each(|k| print!("{:>12}", k.name()));
    println!();
    for (site, from) in &sites[..Kind::ALL.len()] {
        print!("{:<12}", site.kind.name());
        for (_, to) in &sites[Kind::ALL.len()..] {
            let direct = from.has_link(&to.name) && to.has_link(&from.name);
            print!("{:>12}", if direct { "direct" } else { "relayed" });
        }
        println!();
    }
}
