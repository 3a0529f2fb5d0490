//! `aegisray bench`: what the data plane does on this machine, beside a bare cable and beside other VPNs that are
//! installed, in one run, so that the ratios mean something wherever it runs.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use clap::Args;
use serde::Serialize;

use super::{
    LabError,
    daemon::{Daemon, wait_for},
    load,
    topology::Host,
};
use crate::{
    api::{Request, Response},
    host,
};

/// Options of `aegisray bench`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Seconds per measurement of throughput
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Repetitions of each; medians are shown
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Only the subject of this name, or else those whose names contain it
    #[arg(long, value_name = "NAME", default_value = "")]
    pub only: String,
    /// TCP's congestion control: Linux's default, whatever this machine is set to
    #[arg(long, value_name = "NAME", default_value = load::CONGESTION)]
    pub congestion: String,
    /// Only TCP: a quarter of the time
    #[arg(long)]
    pub quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn streams(&self, count: usize) -> load::Streams<'_> {
        load::Streams { count, congestion: &self.congestion, time: Duration::from_secs(self.seconds) }
    }
}

/// What was measured of one subject. Throughput in Gbit/s, times in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    pub name: String,
    pub tcp_1: f64,
    pub tcp_4: f64,
    pub tcp_reverse: f64,
    /// Thousands of 100-byte datagrams a second, the most of which less than 1 % was lost.
    pub kpps: f64,
    pub ping_median: f64,
    pub ping_p99: f64,
    /// The 99th percentile while a TCP stream runs.
    pub loaded_ping_p99: f64,
    /// Processor seconds of all daemons per gigabyte of the single stream.
    pub cpu_per_gb: f64,
    /// Resident memory of the largest daemon in MiB, before and after everything.
    pub rss_before: f64,
    pub rss_after: f64,
    /// Data packets per system call of the sending daemon during the single stream; 0: not known.
    pub packets_per_call: f64,
    /// Medians over the rounds of "aegisray" / this subject: one stream, four, processor time per gigabyte.
    pub ours_tcp_1: f64,
    pub ours_tcp_4: f64,
    pub ours_cpu: f64,
}

/// Two hosts with a tunnel, or none, between them.
struct Subject {
    hosts: Vec<Host>,
    /// The far end's address.
    to: IpAddr,
    /// The near end's address; `None`: the far end can't open connections to it.
    back: Option<IpAddr>,
    daemons: Vec<Daemon>,
    others: Vec<Child>,
    /// Of another's program, with a space before it.
    version: String,
}

impl Drop for Subject {
    fn drop(&mut self) {
        for child in &mut self.others {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Subject {
    fn near(&self) -> &Host {
        &self.hosts[0]
    }

    fn far(&self) -> &Host {
        &self.hosts[self.hosts.len() - 1]
    }

    fn pids(&self) -> Vec<u32> {
        self.daemons.iter().filter_map(Daemon::pid).chain(self.others.iter().map(Child::id)).collect()
    }

    /// Processor seconds used by all daemons so far.
    fn cpu(&self) -> f64 {
        self.pids().into_iter().filter_map(|pid| host::cpu_seconds(pid).ok()).sum()
    }

    fn rss(&self) -> f64 {
        self.pids().into_iter().map(rss_mib).fold(0.0, f64::max)
    }

    /// (packets, system calls) of the near daemon.
    fn calls(&self) -> (u64, u64) {
        let Some(status) = self.daemons.first().and_then(Daemon::status) else { return (0, 0) };
        let of = |name: &str| status.traffic.get(name).copied().unwrap_or(0);
        (of("sent_packets"), of("tun_reads") + of("udp_sends"))
    }
}

fn rss_mib(pid: u32) -> f64 {
    host::resident_kib(pid).map_or(0.0, |kib| kib as f64 / 1024.0)
}

/// Runs the bench and prints it.
pub fn run(options: &Options) -> Result<(), LabError> {
    if let Some(code) = super::prepare()? {
        return if code == 0 { Ok(()) } else { Err(LabError::Io(io::Error::other("the bench failed"))) };
    }
    let dir = std::env::temp_dir().join(format!("aegisray-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    super::clean_up_on_interrupt(Some(dir.clone()));
    let result = measure_all(&dir, options);
    let _ = std::fs::remove_dir_all(&dir);
    let all = result?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&all).unwrap_or_default());
    } else {
        print_table(&all);
    }
    Ok(())
}

type Make = fn(&Path) -> io::Result<Option<Subject>>;

/// All subjects are set up at once and take turns, round by round: a machine whose speed drifts is as fast for one as
/// for the other.
fn measure_all(dir: &Path, options: &Options) -> Result<Vec<Figures>, LabError> {
    let all: Vec<(&str, Make)> = vec![
        ("bare cable", |_| bare().map(Some)),
        ("aegisray", |dir| mesh(dir, "direct", 2, &|_| "").map(Some)),
        ("aegisray, relayed", |dir| mesh(dir, "relayed", 3, &|_| "").map(Some)),
        ("aegisray, exit", through_exit),
        ("aegisray, ChaCha20", |dir| mesh(dir, "chacha", 2, &|_| "session:\n  cipher: chacha20-poly1305\n").map(Some)),
        #[cfg(feature = "bench-plaintext")]
        ("aegisray, no encryption", |dir| mesh(dir, "open", 2, &|_| "").map(Some)),
        ("aegisray, no offloads", |dir| mesh(dir, "plain", 2, &|_| "mesh:\n  offload: false\n").map(Some)),
        ("wireguard-go", |dir| wireguard(dir, "wireguard-go", &[])),
        ("boringtun-cli", |dir| wireguard(dir, "boringtun-cli", &["--disable-drop-privileges"])),
    ];
    let exact = all.iter().any(|s| s.0 == options.only);
    let chosen = |name: &str| if exact { name == options.only } else { name.contains(&options.only) };
    let mut subjects = Vec::new();
    for (name, make) in all.into_iter().filter(|s| chosen(s.0)) {
        if let Some(subject) = make(dir)? {
            let name = format!("{name}{}", subject.version);
            subjects.push((
                Figures { name, rss_before: subject.rss(), ..Figures::default() },
                subject,
                Rounds::default(),
            ));
        }
    }
    for round in 1..=options.runs.max(1) {
        for (figures, subject, rounds) in &mut subjects {
            eprintln!("round {round} of {}: {} …", options.runs.max(1), figures.name);
            rounds.add(subject, options)?;
        }
    }
    let ours = subjects.iter().find(|s| s.0.name == "aegisray").map(|s| s.2.clone());
    for (figures, subject, rounds) in &mut subjects {
        if !options.quick {
            eprintln!("packets and round trips: {} …", figures.name);
            measure_packets(figures, subject, options)?;
        }
        rounds.conclude(figures, ours.as_ref());
        figures.rss_after = subject.rss();
    }
    Ok(subjects.into_iter().map(|s| s.0).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// What each round measured.
#[derive(Default, Clone)]
struct Rounds {
    one: Vec<f64>,
    four: Vec<f64>,
    reverse: Vec<f64>,
    cpu: Vec<f64>,
    per_call: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, subject: &Subject, options: &Options) -> io::Result<()> {
        let (near, far) = (subject.near(), subject.far());
        let (one, four) = (options.streams(1), options.streams(4));
        let (cpu_before, calls_before) = (subject.cpu(), subject.calls());
        let rate = load::tcp(near, far, subject.to, one)?;
        let (packets, calls) = subject.calls();
        self.cpu.push((subject.cpu() - cpu_before) / (rate * one.time.as_secs_f64() / 8e9));
        self.per_call.push((packets - calls_before.0) as f64 / (calls - calls_before.1).max(1) as f64);
        self.one.push(rate / 1e9);
        self.four.push(load::tcp(near, far, subject.to, four)? / 1e9);
        if let Some(back) = subject.back {
            self.reverse.push(load::tcp(far, near, back, one)? / 1e9);
        }
        Ok(())
    }

    /// Medians of the figures, and of the ratios of each round to `ours` in the same round.
    fn conclude(&self, figures: &mut Figures, ours: Option<&Self>) {
        let all = [&self.one, &self.four, &self.reverse, &self.cpu, &self.per_call].map(|v| median(v.clone()));
        [figures.tcp_1, figures.tcp_4, figures.tcp_reverse, figures.cpu_per_gb, figures.packets_per_call] = all;
        let ratio = |ours: &[f64], theirs: &[f64]| median(ours.iter().zip(theirs).map(|(a, b)| a / b).collect());
        if let Some(ours) = ours {
            figures.ours_tcp_1 = ratio(&ours.one, &self.one);
            figures.ours_tcp_4 = ratio(&ours.four, &self.four);
            figures.ours_cpu = ratio(&ours.cpu, &self.cpu);
        }
    }
}

fn measure_packets(figures: &mut Figures, subject: &Subject, options: &Options) -> Result<(), LabError> {
    let (near, far) = (subject.near(), subject.far());
    figures.kpps = most_packets(subject)?;
    let trips = load::round_trips(near, far, subject.to, 2000, Duration::from_micros(500))?;
    let at = |trips: &[Duration], share: f64| {
        trips.get((trips.len() as f64 * share) as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
    };
    (figures.ping_median, figures.ping_p99) = (at(&trips, 0.5), at(&trips, 0.99));
    let loaded = std::thread::scope(|scope| {
        let streams = load::Streams { time: Duration::from_secs(3), ..options.streams(1) };
        let bulk = scope.spawn(move || load::tcp(near, far, subject.to, streams));
        std::thread::sleep(Duration::from_millis(500));
        let trips = load::round_trips(near, far, subject.to, 400, Duration::from_millis(5));
        let _ = bulk.join();
        trips
    })?;
    figures.loaded_ping_p99 = at(&loaded, 0.99);
    Ok(())
}

/// The highest rate, in steps of a twelfth, at which less than 1 % is lost.
fn most_packets(subject: &Subject) -> io::Result<f64> {
    let (mut good, mut rate) = (0.0, 40_000u64);
    while rate < 2_000_000 {
        let mut tries =
            (0..2).map(|_| load::udp(subject.near(), subject.far(), subject.to, 100, rate, Duration::from_millis(700)));
        // One try may be disturbed by what else the machine does.
        let passed = tries.any(|flood| flood.is_ok_and(|f| f.loss() < 0.01 && f.sent as f64 > rate as f64 * 0.65));
        if !passed {
            break;
        }
        good = rate as f64 / 1e3;
        rate += rate / 12;
    }
    Ok(good)
}

fn print_table(all: &[Figures]) {
    println!(
        "{:<25} {:>8} {:>8} {:>8} {:>7} {:>13} {:>9} {:>9} {:>11} {:>8}",
        "", "1 stream", "4", "reverse", "100 B", "ping ms", "loaded", "CPU s/GB", "RSS MiB", "packets"
    );
    println!(
        "{:<25} {:>8} {:>8} {:>8} {:>7} {:>13} {:>9} {:>9} {:>11} {:>8}",
        "", "Gbit/s", "streams", "", "kpps", "median/p99", "p99 ms", "", "before/after", "per call"
    );
    // A dash: not measured.
    let cell = |value: f64, decimals: usize, width: usize| match value {
        v if v > 0.0 => format!("{v:>width$.decimals$}"),
        _ => format!("{:>width$}", "–"),
    };
    for f in all {
        println!(
            "{:<25} {} {} {} {} {}/{} {} {} {}/{} {}",
            f.name,
            cell(f.tcp_1, 2, 8),
            cell(f.tcp_4, 2, 8),
            cell(f.tcp_reverse, 2, 8),
            cell(f.kpps, 0, 7),
            cell(f.ping_median, 3, 6),
            cell(f.ping_p99, 3, 6),
            cell(f.loaded_ping_p99, 2, 9),
            cell(f.cpu_per_gb, 2, 9),
            cell(f.rss_before, 0, 5),
            cell(f.rss_after, 0, 5),
            cell(f.packets_per_call, 1, 9)
        );
    }
    println!();
    for other in all.iter().filter(|f| f.name != "aegisray" && f.ours_tcp_1 > 0.0) {
        print!("aegisray / {}: {:.2} × in 1 stream, {:.2} × in 4", other.name, other.ours_tcp_1, other.ours_tcp_4);
        if other.ours_cpu.is_finite() {
            print!(", {:.2} × the processor time per byte", other.ours_cpu);
        }
        println!();
    }
}

const CABLE: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2))];

fn bare() -> io::Result<Subject> {
    let (a, b) = (Host::bare()?, Host::bare()?);
    a.cable(&b, ("eth0", CABLE[0]), ("eth0", CABLE[1]))?;
    Ok(Subject {
        hosts: vec![a, b],
        to: CABLE[1],
        back: Some(CABLE[0]),
        daemons: vec![],
        others: vec![],
        version: String::new(),
    })
}

/// A line of `count` nodes, each with a cable to the next; `more` is added to the configuration of each.
fn mesh(dir: &Path, name: &str, count: usize, more: &dyn Fn(usize) -> &'static str) -> io::Result<Subject> {
    let program = std::env::current_exe()?;
    let hosts: Vec<Host> = (0..count).map(|_| Host::bare()).collect::<io::Result<_>>()?;
    for i in 1..count {
        let at = |last: u8| IpAddr::from([192, 0, 2 + i as u8, last]);
        hosts[i - 1].cable(&hosts[i], ("eth1", at(1)), ("eth0", at(2)))?;
    }
    let mut daemons = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let bootstrap =
            if i > 0 { format!("peers:\n  bootstrap: [\"192.0.{}.1:51900\"]\n", 2 + i) } else { String::new() };
        let node = format!("{name}-{i}");
        let mut daemon =
            Daemon::configure(&program, dir, &node, "a secret for the bench", &format!("{bootstrap}{}", more(i)))?;
        #[cfg(feature = "bench-plaintext")]
        if name == "open" {
            daemon.environment.push((crate::crypto::PLAINTEXT.to_owned(), "1".to_owned()));
        }
        daemon.start(host)?;
        daemons.push(daemon);
    }
    let last = format!("{name}-{}", count - 1);
    let started = wait_for(Duration::from_secs(10), || {
        daemons[0].route_to(&last)?;
        Some((daemons[count - 1].addresses()?.0, daemons[0].addresses()?.0))
    });
    let Some((to, back)) = started else {
        return Err(io::Error::other(format!("the mesh did not come up:\n{}", daemons[0].log_tail())));
    };
    let subject = Subject { hosts, to, back: Some(back), daemons, others: vec![], version: String::new() };
    load::round_trips(subject.near(), subject.far(), to, 10, Duration::from_millis(10))?;
    Ok(subject)
}

/// A client, its exit, and a host outside the mesh that is reached through it; `None` without `nft`.
fn through_exit(dir: &Path) -> io::Result<Option<Subject>> {
    if host::firewall::rules().is_err() {
        return Ok(None);
    }
    let mut subject = mesh(dir, "exit", 2, &|i| if i == 0 { "exit: auto\n" } else { "exit_node:\n  enabled: true\n" })?;
    let outside = Host::bare()?;
    let [near, far] = [1, 2].map(|last| IpAddr::from([203, 0, 113, last]));
    subject.far().cable(&outside, ("eth1", near), ("eth0", far))?;
    subject.hosts.push(outside);
    let led = wait_for(Duration::from_secs(10), || match subject.daemons[0].ask(&Request::Exit { choice: None }) {
        Ok(Response::Exit(status)) => status.name,
        _ => None,
    });
    if led.is_none() {
        return Err(io::Error::other(format!("there is no exit:\n{}", subject.daemons[0].log_tail())));
    }
    (subject.to, subject.back) = (far, None);
    load::round_trips(subject.near(), subject.far(), far, 10, Duration::from_millis(10))?;
    Ok(Some(subject))
}

/// Two ends of a WireGuard program with the cross-platform interface (`wg`'s UAPI); `None` where it isn't installed.
fn wireguard(dir: &Path, program: &str, arguments: &[&str]) -> io::Result<Option<Subject>> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(program): Option<PathBuf> = std::env::split_paths(&paths).map(|p| p.join(program)).find(|p| p.is_file())
    else {
        return Ok(None);
    };
    let mut subject = bare()?;
    subject.version = version(&program);
    let inner = [IpAddr::from([10, 9, 0, 1]), IpAddr::from([10, 9, 0, 2])];
    let key = |i: usize| [0x40 | (1 + i as u8); 32];
    let hex = |bytes: &[u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for i in 0..2 {
        let interface = format!("awg{}n{i}", std::process::id() % 10_000);
        let log = std::fs::File::create(dir.join(format!("{interface}.log")))?;
        let mut command = subject.hosts[i].ns.command(&program);
        command.args(arguments).arg("-f").arg(&interface).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        subject.others.push(command.spawn()?);
        let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
        let set = format!(
            "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\nendpoint={}:51820\nreplace_allowed_ips=true\nallowed_ip={}/32\n\n",
            hex(&key(i)),
            hex(&crate::crypto::x25519_public(&key(1 - i))),
            CABLE[1 - i],
            inner[1 - i]
        );
        let accepted = wait_for(Duration::from_secs(5), || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).ok()?;
            stream.write_all(set.as_bytes()).ok()?;
            let mut answer = [0; 64];
            let n = stream.read(&mut answer).ok()?;
            String::from_utf8_lossy(&answer[..n]).contains("errno=0").then_some(())
        });
        if accepted.is_none() {
            return Err(io::Error::other(format!("{} did not take its configuration", program.display())));
        }
        subject.hosts[i].ns.run(|| {
            let mut n = crate::host::Netlink::open()?;
            n.set_mtu(&interface, 1420, 1000)?;
            n.add_address(&interface, inner[i], 24)?;
            n.set_up(&interface, true)
        })?;
    }
    (subject.to, subject.back) = (inner[1], Some(inner[0]));
    load::round_trips(subject.near(), subject.far(), inner[1], 20, Duration::from_millis(20))?;
    Ok(Some(subject))
}

/// The first word of what `program --version` prints that holds a digit, with a space before it.
fn version(program: &Path) -> String {
    let Ok(output) = std::process::Command::new(program).arg("--version").output() else { return String::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let word =
        text.split_whitespace().find(|w| w.starts_with(|c: char| c == 'v' || c.is_ascii_digit()) && w.contains('.'));
    word.map(|w| format!(" {}", w.trim_start_matches('v'))).unwrap_or_default()
}
