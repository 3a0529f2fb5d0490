//! What sizes and times give away.

use std::{collections::BTreeSet, time::Duration};

use aegisray::lab::{
    load,
    topology::Internet,
    traffic::{Echo, echoes},
};

use super::{
    capture::{Capture, Connection, Segment},
    harness::{Dir, need, need_route, node},
    site::{ADDRESS, NAME, Site},
};

const VISITS: usize = 6;
const FIRST: usize = 6;
/// Where a second site is.
const OTHER: &str = "203.0.113.11";

/// The first records of several visits look alike without padding, and never with it; an idle connection doesn't tick.
pub fn sizes_and_times() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    for (padding, most_alike) in [("off", VISITS), ("start", 1)] {
        let more = site.way_in("always", NAME).replace("sites:", &format!("padding: {padding}\n  sites:"));
        let mut client = node(&dir, "client", &more);
        let capture = Capture::of(&host, || {
            for _ in 0..VISITS {
                client.start(&host).unwrap();
                need_route(&client, "site");
                std::thread::sleep(Duration::from_millis(300));
                client.kill();
            }
        });
        // Behind Finished, what the visitor says.
        let visits: Vec<Vec<usize>> = capture
            .connections(ADDRESS)
            .iter()
            .map(|c| Connection::encrypted(&c.up).into_iter().skip(1).take(FIRST).collect())
            .collect();
        assert!(visits.len() >= VISITS && visits.iter().all(|v| v.len() == FIRST), "{visits:?}");
        let alike = |at: usize| {
            let sizes: Vec<usize> = visits.iter().map(|v| v[at]).collect();
            let distinct: BTreeSet<usize> = sizes.iter().copied().collect();
            distinct.iter().map(|d| sizes.iter().filter(|s| *s == d).count()).max().unwrap_or(0)
        };
        let worst = (0..FIRST).map(alike).max().unwrap_or(0);
        println!("  padding {padding}: at worst {worst} of {} visits have a record of the same length", visits.len());
        println!("    first visit {:?}, second {:?}", visits[0], visits[1]);
        if padding == "start" {
            assert!(worst <= most_alike + 1, "{visits:?}");
        } else {
            assert!(worst * 2 > most_alike, "without padding it can be told: {visits:?}");
        }
    }
    let mut client = node(&dir, "client", &site.way_in("always", NAME));
    client.start(&host).unwrap();
    need_route(&client, "site");
    let capture = Capture::of(&host, || std::thread::sleep(Duration::from_secs(40)));
    let times: Vec<Duration> = capture.frames.iter().filter(|(_, f)| is_data(f)).map(|(at, _)| *at).collect();
    let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).filter(|g| *g > 0.2).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    let cv = variance.sqrt() / mean;
    println!("  idle: {} pauses in 40 s, {mean:.1} s on average, coefficient of variation {cv:.2}", gaps.len());
    assert!(cv >= 0.3, "{gaps:?}");
}

fn is_data(frame: &[u8]) -> bool {
    Segment::of(frame).is_some_and(|s| s.to_port == 443 && !s.payload.is_empty())
}

/// What is sent in vain is as much as was asked for, each way, and comes at no beat.
pub fn cover() {
    const KBIT: f64 = 800.0;
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::of_folder(&dir, &mut internet, "site", ADDRESS, "  cover_kbit: 800\n");
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let mut client = node(&dir, "client", &site.way_in("always", NAME).replace("sites:", "cover_kbit: 800\n  sites:"));
    client.start(&host).unwrap();
    need_route(&client, "site");
    std::thread::sleep(Duration::from_secs(1));
    let time = Duration::from_secs(15);
    let capture = Capture::of(&host, || std::thread::sleep(time));
    let (mut up, mut down) = (0, 0);
    for segment in capture.frames.iter().filter_map(|(_, f)| Segment::of(f)) {
        *if segment.to_port == 443 { &mut up } else { &mut down } += segment.payload.len();
    }
    let kbit = |bytes: usize| bytes as f64 * 8.0 / 1000.0 / time.as_secs_f64();
    println!("  asked for {KBIT} kbit/s each way on an idle connection: {:.0} up, {:.0} down", kbit(up), kbit(down));
    for seen in [kbit(up), kbit(down)] {
        assert!((KBIT * 0.6..KBIT * 1.5).contains(&seen), "{seen}");
    }
}

/// Connections come and go, to one node or from one to another; what they carry doesn't notice.
pub fn rotation() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::of_folder(&dir, &mut internet, "site", ADDRESS, "");
    let _other = Site::of_folder(&dir, &mut internet, "other", OTHER, "");
    // The two know each other, as nodes of one mesh do.
    let mut between =
        node(&dir, "between", &format!("peers:\n  bootstrap: [\"{ADDRESS}:51900\", \"{OTHER}:51900\"]\n"));
    between.start(&internet.public("203.0.113.30".parse().unwrap()).unwrap()).unwrap();
    need_route(&site.daemon, "other");
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let address = need(&site.daemon, "addresses", || site.daemon.addresses()).0;
    let _echo = Echo::start(&site.host, address);
    let one = site.way_in("always", NAME).replace("sites:", "rotation_interval: 10\n  sites:");
    let two = format!("{one}    - {{ address: \"{OTHER}:443\", sni: {NAME} }}\n");
    for (what, more) in [("to the same node", one), ("from one node to another", two)] {
        let mut client = node(&dir, "client", &more);
        client.start(&host).unwrap();
        need_route(&client, "site");
        let (interval, time) = (Duration::from_millis(5), Duration::from_secs(18));
        let (mut seen, mut rate) = (None, 0.0);
        let capture = Capture::of(&host, || {
            rate = load::tcp(&host, &site.host, address, load::Streams::one(Duration::from_secs(12)))
                .expect("the transfer survives");
            seen = Some(echoes(&host, address, (interval, time), 100, (time, &|| ())).unwrap());
        });
        let seen = seen.unwrap();
        let opened = [ADDRESS, OTHER].map(|at| capture.connections(at).len());
        let lost = seen.sent - seen.answered.len();
        println!(
            "  {what}: {opened:?} new connections in 30 s; {lost} of {} echoes lost, the longest outage {:?}; before, \
             {:.2} Gbit/s in one stream",
            seen.sent,
            seen.longest_outage(interval),
            rate / 1e9
        );
        assert!(opened.iter().sum::<usize>() >= 1, "{opened:?}");
        let dropped = [&client, &site.daemon].map(|d| d.status().map(|s| s.node.dropped));
        assert_eq!(lost, 0, "{dropped:?}");
    }
}
