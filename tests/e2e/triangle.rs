//! Three hosts, each with a link to each other: what happens when the one in use dies.

use std::{net::IpAddr, time::Duration};

use aegisray::lab::{
    daemon::Daemon,
    topology::{Host, Internet},
    traffic::{Echo, echoes, first_echo, tcp_stream},
};

use super::harness::{Dir, PATIENCE, need, need_route, node};

const EVERY: Duration = Duration::from_millis(10);
const ROUNDS: usize = 5;

struct Triangle {
    hosts: [Host; 3],
    daemons: [Daemon; 3],
    /// The switch between A and C.
    direct: Internet,
    c: IpAddr,
    _dir: Dir,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn triangle() -> Triangle {
    let dir = Dir::new();
    let mut hosts = [Host::bare().unwrap(), Host::bare().unwrap(), Host::bare().unwrap()];
    hosts[0].cable(&hosts[1], ("ab", ip("10.1.0.1")), ("ba", ip("10.1.0.2"))).unwrap();
    hosts[2].cable(&hosts[1], ("cb", ip("10.2.0.3")), ("bc", ip("10.2.0.2"))).unwrap();
    let mut direct = Internet::new().unwrap();
    let [a, _, c] = &mut hosts;
    direct.plug_in(a, "ac", ip("10.3.0.1")).unwrap();
    direct.plug_in(c, "ca", ip("10.3.0.3")).unwrap();
    let peers = |list: &str| format!("peers:\n  bootstrap: [{list}]\n  lan_discovery: false\n");
    let mut daemons = [
        node(&dir, "A", &peers("\"10.1.0.2:51900\", \"10.3.0.3:51900\"")),
        node(&dir, "B", "peers:\n  lan_discovery: false\n"),
        node(&dir, "C", &peers("\"10.2.0.2:51900\"")),
    ];
    for (daemon, host) in daemons.iter_mut().zip(&hosts) {
        daemon.start(host).unwrap();
    }
    let c = need(&daemons[2], "status", || daemons[2].addresses()).0;
    let t = Triangle { hosts, daemons, direct, c, _dir: dir };
    ready(&t);
    t
}

/// All links are up and A reaches C directly.
fn ready(t: &Triangle) {
    for (from, to) in [(0, "B"), (0, "C"), (1, "A"), (1, "C"), (2, "A"), (2, "B")] {
        let daemon = &t.daemons[from];
        need(daemon, &format!("link to {to}"), || daemon.has_link(to).then_some(()));
    }
    for (from, to) in [(0, "C"), (2, "A")] {
        let daemon = &t.daemons[from];
        need(daemon, "direct route", || daemon.route_to(to).filter(|r| r.direct));
    }
}

fn measure(what: &str, cut: impl Fn(&Triangle) + Sync, heal: impl Fn(&Triangle)) {
    let t = triangle();
    let _echo = Echo::start(&t.hosts[2], t.c);
    let mut outages = Vec::new();
    for round in 0..ROUNDS {
        ready(&t);
        first_echo(&t.hosts[0], t.c, PATIENCE).expect("A reaches C");
        // Cuts fall at different points of the probing interval.
        let at = Duration::from_millis(800 + 23 * round as u64);
        let run = echoes(&t.hosts[0], t.c, (EVERY, Duration::from_secs(3)), 64, (at, &|| cut(&t))).unwrap();
        let last = run.answered.last().expect("answers").0;
        assert!(last > Duration::from_millis(2500), "pings did not come back: the last answered left at {last:?}");
        assert_eq!(need_route(&t.daemons[0], "C").next_hop_name, "B");
        outages.push(run.longest_outage(EVERY));
        heal(&t);
    }
    outages.sort_unstable();
    let show: Vec<String> = outages.iter().map(|o| format!("{}", o.as_millis())).collect();
    println!("  {what}: outage {} ms (median of {}: {})", show[ROUNDS / 2], ROUNDS, show.join(", "));
}

pub fn silent_cut() {
    measure(
        "link cut silently",
        |t| t.direct.set_silent(&t.hosts[0], true).unwrap(),
        |t| t.direct.set_silent(&t.hosts[0], false).unwrap(),
    );
}

pub fn interface_down() {
    measure(
        "interface set down",
        |t| t.hosts[0].set_interface("ac", false).unwrap(),
        |t| t.hosts[0].set_interface("ac", true).unwrap(),
    );
}

pub fn roaming() {
    let t = triangle();
    // A moves: its address on the direct link changes in the middle of a transfer.
    let moved = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            t.hosts[0]
                .ns
                .run(|| {
                    let mut n = aegisray::host::Netlink::open()?;
                    n.remove_address("ac", ip("10.3.0.1"), 24)?;
                    n.add_address("ac", ip("10.3.0.77"), 24)
                })
                .unwrap();
        });
        let rate = tcp_stream(&t.hosts[0], &t.hosts[2], t.c, Duration::from_secs(3));
        mover.join().unwrap();
        rate
    });
    println!("  a transfer over a change of address: {:.2} Gbit/s", moved.expect("the transfer survives") * 8e-9);
    let c = &t.daemons[2];
    need(c, "link to A's new address", || {
        c.peers().into_iter().find(|p| p.link.as_ref().is_some_and(|l| l.up && l.addr.ip() == ip("10.3.0.77")))
    });
}
