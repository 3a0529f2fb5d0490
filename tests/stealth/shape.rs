//! What sizes and times give away.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use aegisray::lab::{
    load,
    topology::Internet,
    traffic::{Echo, echoes},
};

use super::{
    capture::{Capture, Connection},
    harness::{Dir, need, need_route, node},
    site::{ADDRESS, NAME, Site},
};

const VISITS: usize = 6;
const FIRST: usize = 6;

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
    super::capture::Segment::of(frame).is_some_and(|s| s.to_port == 443 && !s.payload.is_empty())
}

/// Connections come and go; what they carry doesn't notice.
pub fn rotation() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let more = site.way_in("always", NAME).replace("sites:", "rotation_interval: 10\n  sites:");
    let mut client = node(&dir, "client", &more);
    client.start(&host).unwrap();
    need_route(&client, "site");
    let address = need(&site.daemon, "addresses", || site.daemon.addresses()).0;
    let _echo = Echo::start(&site.host, address);
    let (interval, time) = (Duration::from_millis(5), Duration::from_secs(18));
    let (mut seen, mut rate) = (None, 0.0);
    let capture = Capture::of(&host, || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let transfer = scope.spawn(|| load::tcp(&host, &site.host, address, 1, Duration::from_secs(12)));
            std::thread::sleep(Duration::from_secs(12).saturating_sub(start.elapsed()));
            rate = transfer.join().unwrap().expect("the transfer survives");
            seen = Some(echoes(&host, address, (interval, time), 100, (time, &|| ())).unwrap());
        });
    });
    let seen = seen.unwrap();
    let opened = capture.connections(ADDRESS).len();
    let lost = seen.sent - seen.answered.len();
    println!(
        "  {opened} new connections in 30 s: {} of {} echoes lost, the longest outage {:?}; before, {:.2} Gbit/s in one stream",
        lost,
        seen.sent,
        seen.longest_outage(interval),
        rate / 1e9
    );
    assert!(opened >= 1, "{opened}");
    assert_eq!(lost, 0);
}
