//! The story that the lab tells, step by step.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Options,
    daemon::{Daemon, wait_for},
    topology::{Host, Internet},
    traffic::{Echo, echoes, first_echo, tcp_stream},
};
use crate::host;

const SECRET: &str = "only-for-the-lab-not-for-you";
const PATIENCE: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(10);

/// Why the story ended early.
pub(super) struct Failed(pub String);

impl<E: Display> From<E> for Failed {
    fn from(value: E) -> Self {
        Self(value.to_string())
    }
}

/// Steps on the terminal: each is shown while it runs and again when it is done.
struct Screen {
    live: bool,
    step: usize,
    began: Instant,
    what: String,
}

const STEPS: usize = 8;

impl Screen {
    fn begin(&mut self, what: &str) {
        self.step += 1;
        self.what = what.to_owned();
        self.began = Instant::now();
        if self.live {
            print!("  [{}/{STEPS}] {what} …", self.step);
            let _ = std::io::stdout().flush();
        }
    }

    fn done(&self, result: &str) {
        let took = self.began.elapsed().as_secs_f64();
        let start = if self.live { "\r\x1b[2K" } else { "" };
        println!("{start}  [{}/{STEPS}] {:<34} {result}  ({took:.2} s)", self.step, self.what);
    }
}

struct Lab {
    internet: Internet,
    hosts: Vec<Host>,
    daemons: Vec<Daemon>,
    _routers: Vec<Host>,
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

pub(super) fn tell(dir: &Path, options: &Options) -> Result<(), Failed> {
    println!("AegisRay lab: a mesh on this machine, in network namespaces of its own.\n");
    println!("    A (behind NAT) ──┐              ┌── C (behind NAT)");
    println!("                     ├── internet ──┤");
    println!("    B (public)  ─────┘              └── D (joins later)\n");
    let mut screen =
        Screen { live: std::io::stdout().is_terminal(), step: 0, began: Instant::now(), what: String::new() };
    let outcome = chapters(dir, options, &mut screen);
    if outcome.is_err() && screen.live {
        println!();
    }
    outcome
}

fn chapters(dir: &Path, options: &Options, screen: &mut Screen) -> Result<(), Failed> {
    let began = Instant::now();
    screen.begin("building the network");
    let mut lab = build(dir)?;
    screen.done("an internet, two homes behind NAT, two public hosts");

    screen.begin("starting A, B and C");
    for i in [B, A, C] {
        let Lab { hosts, daemons, .. } = &mut lab;
        daemons[i].start(&hosts[i])?;
    }
    for i in [A, C] {
        need(&lab, i, "joined the mesh", || lab.daemons[i].has_link("B").then_some(()))?;
    }
    screen.done("A and C know only B's address; both have joined");

    screen.begin("finding routes");
    let to_c = need(&lab, A, "a route to C", || lab.daemons[A].route_to("C"))?;
    let address_c = *to_c.addresses.first().ok_or("C has no address")?;
    screen.done(&format!("A reaches C ({address_c}) via {}", to_c.next_hop_name));

    screen.begin("pinging C from A");
    let _echo = Echo::start(&lab.hosts[C], address_c);
    first_echo(&lab.hosts[A], address_c, PATIENCE).ok_or("no answer from C")?;
    let calm = echoes(&lab.hosts[A], address_c, (EVERY, Duration::from_secs(1)), 64, (Duration::ZERO, &|| {}))?;
    if calm.answered.len() + 2 < calm.sent {
        return Err(Failed(format!("only {} of {} echoes came back", calm.answered.len(), calm.sent)));
    }
    let rtt = calm.median();
    screen.done(&format!("{} of {} back, median {:.2} ms", calm.answered.len(), calm.sent, millis(rtt)));

    screen.begin("sending as fast as it goes");
    let time = Duration::from_secs(options.seconds.clamp(1, 60));
    let relayed = tcp_stream(&lab.hosts[A], &lab.hosts[C], address_c, time)?;
    let relayed_by_b = lab.daemons[B].status().and_then(|s| s.traffic.get("relayed_packets").copied());
    screen.done(&format!(
        "{:.2} Gbit/s TCP from A to C, end to end encrypted; B relayed {} packets and can't read them",
        relayed * 8.0 / 1e9,
        relayed_by_b.unwrap_or(0)
    ));

    screen.begin("D joins by an invite");
    join_by_invite(&mut lab, dir)?;
    let joined = Instant::now();
    for (i, name) in [(A, "D"), (C, "D"), (D, "A"), (D, "B"), (D, "C")] {
        need(&lab, i, &format!("a route to {name}"), || lab.daemons[i].route_to(name))?;
    }
    for (i, name) in [(A, "D"), (C, "D")] {
        need(&lab, i, &format!("a link to {name}"), || lab.daemons[i].has_link(name).then_some(()))?;
    }
    let join_time = joined.elapsed();
    screen.done("A and C found D by themselves and linked with it");

    screen.begin("pulling the relay's cable");
    let through = need(&lab, A, "a route to C", || lab.daemons[A].route_to("C"))?.next_hop_name;
    let relay = if through == "D" { D } else { B };
    let failed = echoes(
        &lab.hosts[A],
        address_c,
        (EVERY, Duration::from_secs(4)),
        64,
        (Duration::from_secs(1), &|| drop(lab.internet.set_port(&lab.hosts[relay], false))),
    )?;
    let outage = failed.longest_outage(EVERY);
    let after = need(&lab, A, "another way to C", || lab.daemons[A].route_to("C"))?.next_hop_name;
    if failed.answered.last().is_none_or(|l| l.0 < Duration::from_millis(3500)) {
        return Err(Failed(format!("pings from A to C did not come back after {through} was cut off")));
    }
    screen.done(&format!("traffic moved from {through} to {after}: {:.0} ms without an answer", millis(outage)));

    screen.begin("plugging it in again");
    lab.internet.set_port(&lab.hosts[relay], true)?;
    let name = lab.daemons[relay].name.clone();
    need(&lab, A, &format!("a link to {name}"), || lab.daemons[A].has_link(&name).then_some(()))?;
    need(&lab, relay, "a route to C", || lab.daemons[relay].route_to("C"))?;
    screen.done(&format!("{name} is back in the mesh by itself"));

    summary(
        &lab,
        &[
            ("ping A to C, median".into(), format!("{:.2} ms", millis(rtt))),
            ("TCP A to C through a relay".into(), format!("{:.2} Gbit/s", relayed * 8.0 / 1e9)),
            ("invite used to D reachable".into(), format!("{:.0} ms", millis(join_time))),
            ("outage when the relay died".into(), format!("{:.0} ms", millis(outage))),
            ("the whole lab".into(), format!("{:.1} s", began.elapsed().as_secs_f64())),
        ],
    );
    Ok(())
}

fn build(dir: &Path) -> Result<Lab, Failed> {
    let program = std::env::current_exe()?;
    let mut internet = Internet::new()?;
    let public = |last| IpAddr::from([198, 51, 100, last]);
    let (router_a, a) = internet.home(public(11), [192, 168, 1])?;
    let b = internet.public(public(2))?;
    let (router_c, c) = internet.home(public(13), [192, 168, 2])?;
    let d = internet.public(public(4))?;
    let bootstrap = format!("peers:\n  bootstrap: [\"{}:51900\"]\n", public(2));
    let daemons = [("A", bootstrap.as_str()), ("B", ""), ("C", bootstrap.as_str())]
        .map(|(name, more)| Daemon::configure(&program, dir, name, SECRET, more));
    let mut daemons = daemons.into_iter().collect::<Result<Vec<_>, _>>()?;
    daemons.push(Daemon::prepared(&program, &dir.join("D"), "D"));
    Ok(Lab { internet, hosts: vec![a, b, c, d], daemons, _routers: vec![router_a, router_c] })
}

/// What a person does: `invite` on B, `join` on D.
fn join_by_invite(lab: &mut Lab, dir: &Path) -> Result<(), Failed> {
    let invite =
        lab.daemons[B].command(&lab.hosts[B]).arg("invite").arg("--socket").arg(lab.daemons[B].socket()).output()?;
    let token = String::from_utf8_lossy(&invite.stdout).trim().to_owned();
    if !invite.status.success() {
        return Err(Failed(format!("`aegisray invite` failed: {}", String::from_utf8_lossy(&invite.stderr))));
    }
    let join = lab.daemons[D]
        .command(&lab.hosts[D])
        .args(["join", &token, "--name", "D", "--no-start", "--dir"])
        .arg(dir.join("D"))
        .output()?;
    if !join.status.success() {
        return Err(Failed(format!("`aegisray join` failed: {}", String::from_utf8_lossy(&join.stderr))));
    }
    let Lab { hosts, daemons, .. } = lab;
    Ok(daemons[D].start(&hosts[D])?)
}

/// Waits for something that a daemon should reach; says what its log says if it doesn't.
fn need<T>(lab: &Lab, who: usize, what: &str, condition: impl FnMut() -> Option<T>) -> Result<T, Failed> {
    wait_for(PATIENCE, condition).ok_or_else(|| {
        let daemon = &lab.daemons[who];
        let limit = PATIENCE.as_secs();
        Failed(format!(
            "{} has not reached `{what}` within {limit} s. Its log ends:\n{}",
            daemon.name,
            daemon.log_tail()
        ))
    })
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn summary(lab: &Lab, figures: &[(String, String)]) {
    println!("\nSummary");
    for (what, value) in figures {
        println!("  {what:<32} {value}");
    }
    for daemon in &lab.daemons {
        let kib = daemon.pid().and_then(|pid| host::resident_kib(pid).ok()).unwrap_or(0);
        println!("  {:<32} {:.1} MiB", format!("memory of {}", daemon.name), kib as f64 / 1024.0);
    }
    println!("\nAll of it worked. Next: `sudo aegisray up` on a machine of yours, then `sudo aegisray invite`.");
}
