//! `aegisray bench`: what the data plane does on this machine, beside a bare cable and beside other VPNs that are
//! installed, in one run, so that the ratios mean something wherever it runs.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    LabError, load,
    subject::{Subject, bare, mesh, mesh_of, through_exit, wireguard},
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
    /// Only the subject of this name, or else those whose names contain it; may be repeated
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Another program that takes WireGuard's options and configuration protocol, by its path; may be repeated
    #[arg(long, value_name = "PROGRAM")]
    pub also: Vec<PathBuf>,
    /// Another build of this program, by its path, beside the present one whatever `--only` says; may be repeated
    #[arg(long, value_name = "PROGRAM")]
    pub against: Vec<PathBuf>,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "tcp,packets,trips")]
    pub measure: Vec<Part>,
    /// TCP's congestion control: Linux's default, whatever this machine is set to
    #[arg(long, value_name = "NAME", default_value = load::CONGESTION)]
    pub congestion: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A part of the bench.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Throughput and processor time
    Tcp,
    /// The most small packets a second
    Packets,
    /// Round trips, alone and beside a TCP stream
    Trips,
}

impl Options {
    fn streams(&self, count: usize) -> load::Streams<'_> {
        load::Streams { count, congestion: &self.congestion, time: Duration::from_secs(self.seconds) }
    }
}

/// What was measured of one subject: medians over the rounds; 0: not measured. Throughput in Gbit/s, times in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    pub name: String,
    #[serde(flatten)]
    pub measured: Measured,
    /// Resident memory of the largest daemon in MiB, before and after everything.
    pub rss_before: f64,
    pub rss_after: f64,
    /// "aegisray" / this subject, the median over the rounds.
    pub ours: Measured,
    /// The median of "aegisray" / the median of this subject.
    pub ratio_of_medians: Measured,
    /// Another build of this program.
    pub is_build: bool,
    /// Round trips beyond those of the bare cable.
    pub ping_added: f64,
    pub ping_p99_added: f64,
}

/// What a round measures.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Measured {
    pub tcp_1: f64,
    pub tcp_4: f64,
    pub tcp_reverse: f64,
    /// Processor seconds of all daemons per gigabyte of the single stream.
    pub cpu_per_gb: f64,
    /// Data packets per system call of the sending daemon during the single stream.
    pub packets_per_call: f64,
    /// Thousands of 100-byte datagrams a second, the most of which less than 1 % was lost.
    pub kpps: f64,
    pub ping_median: f64,
    pub ping_p99: f64,
    /// The 99th percentile while a TCP stream runs.
    pub loaded_ping_p99: f64,
}

impl Measured {
    /// The median of each figure.
    fn medians(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(all.iter().map(figure).collect());
        Self {
            tcp_1: of(|m| m.tcp_1),
            tcp_4: of(|m| m.tcp_4),
            tcp_reverse: of(|m| m.tcp_reverse),
            cpu_per_gb: of(|m| m.cpu_per_gb),
            packets_per_call: of(|m| m.packets_per_call),
            kpps: of(|m| m.kpps),
            ping_median: of(|m| m.ping_median),
            ping_p99: of(|m| m.ping_p99),
            loaded_ping_p99: of(|m| m.loaded_ping_p99),
        }
    }

    /// Each figure with that of `other`.
    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            tcp_1: f(self.tcp_1, other.tcp_1),
            tcp_4: f(self.tcp_4, other.tcp_4),
            tcp_reverse: f(self.tcp_reverse, other.tcp_reverse),
            cpu_per_gb: f(self.cpu_per_gb, other.cpu_per_gb),
            packets_per_call: f(self.packets_per_call, other.packets_per_call),
            kpps: f(self.kpps, other.kpps),
            ping_median: f(self.ping_median, other.ping_median),
            ping_p99: f(self.ping_p99, other.ping_p99),
            loaded_ping_p99: f(self.loaded_ping_p99, other.loaded_ping_p99),
        }
    }
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

type Make<'a> = Box<dyn Fn(&Path) -> io::Result<Option<Subject>> + 'a>;

/// All subjects are set up at once and take turns, round by round, every other round in the opposite order: a machine
/// whose speed drifts is as fast for one as for the other.
fn measure_all(dir: &Path, options: &Options) -> Result<Vec<Figures>, LabError> {
    let installed = ["wireguard-go", "boringtun-cli"].map(PathBuf::from);
    let of_mesh = |name: &'static str, count: usize, more: &'static str| -> Make<'_> {
        Box::new(move |dir| mesh(dir, name, count, &|_| more).map(Some))
    };
    let builds: Vec<(String, &Path)> = options.against.iter().map(|p| (name_of_build(p), p.as_path())).collect();
    let mut all: Vec<(String, Make<'_>)> = vec![
        ("bare cable".to_owned(), Box::new(|_| bare().map(Some))),
        ("aegisray".to_owned(), of_mesh("direct", 2, "")),
    ];
    for (i, (name, program)) in builds.iter().enumerate() {
        let make = move |dir: &Path| {
            let program = std::path::absolute(program)?;
            mesh_of(&program, dir, &format!("build-{i}"), 2, &|_| "").map(Some)
        };
        all.push((name.clone(), Box::new(make)));
    }
    all.extend([
        ("aegisray, relayed".to_owned(), of_mesh("relayed", 3, "")),
        ("aegisray, exit".to_owned(), Box::new(through_exit)),
        ("aegisray, ChaCha20".to_owned(), of_mesh("chacha", 2, "session:\n  cipher: chacha20-poly1305\n")),
        #[cfg(feature = "bench-plaintext")]
        ("aegisray, no encryption".to_owned(), of_mesh("open", 2, "")),
        ("aegisray, no offloads".to_owned(), of_mesh("plain", 2, "mesh:\n  offload: false\n")),
    ]);
    for (i, program) in installed.iter().chain(&options.also).enumerate() {
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let arguments: &[&str] = if name == "boringtun-cli" { &["--disable-drop-privileges"] } else { &[] };
        let is_asked_for = i >= installed.len();
        let make = move |dir: &Path| match wireguard(dir, i, program, arguments)? {
            None if is_asked_for => Err(io::Error::other(format!("there is no program {}", program.display()))),
            subject => Ok(subject),
        };
        all.push((name, Box::new(make)));
    }
    let names: Vec<String> = all.iter().map(|s| s.0.clone()).collect();
    let is_meant = |only: &String, name: &str| if names.contains(only) { only == name } else { name.contains(only) };
    let is_build = |name: &str| builds.iter().any(|build| build.0 == name);
    let chosen =
        |name: &str| is_build(name) || options.only.is_empty() || options.only.iter().any(|only| is_meant(only, name));
    let mut subjects = Vec::new();
    for (name, make) in all.into_iter().filter(|s| chosen(&s.0)) {
        if let Some(subject) = make(dir)? {
            let figures = Figures {
                is_build: is_build(&name),
                name: format!("{name}{}", subject.version),
                rss_before: subject.rss(),
                ..Figures::default()
            };
            subjects.push((figures, subject, Vec::new()));
        }
    }
    for round in 1..=options.runs.max(1) {
        for (figures, subject, rounds) in &mut subjects {
            eprintln!("round {round} of {}: {} …", options.runs.max(1), figures.name);
            rounds.push(measure(subject, options)?);
        }
        subjects.reverse();
    }
    if options.runs.max(1) % 2 == 1 {
        subjects.reverse();
    }
    let rounds_of = |name: &str| subjects.iter().find(|s| s.0.name == name).map(|s| s.2.clone()).unwrap_or_default();
    let (ours, cable) = (rounds_of("aegisray"), rounds_of("bare cable"));
    for (figures, subject, rounds) in &mut subjects {
        figures.measured = Measured::medians(rounds);
        figures.rss_after = subject.rss();
        let beside = |others: &[Measured], f: fn(f64, f64) -> f64| {
            Measured::medians(&others.iter().zip(&*rounds).map(|(o, m)| o.with(m, f)).collect::<Vec<_>>())
        };
        figures.ours = beside(&ours, ratio);
        figures.ratio_of_medians = Measured::medians(&ours).with(&figures.measured, ratio);
        let added = beside(&cable, |cable, theirs| theirs - cable);
        (figures.ping_added, figures.ping_p99_added) = (added.ping_median, added.ping_p99);
    }
    Ok(subjects.into_iter().map(|s| s.0).collect())
}

/// The file's name, or the whole path where that would be the present program's.
fn name_of_build(program: &Path) -> String {
    let file = program.file_name().filter(|name| *name != "aegisray").unwrap_or(program.as_os_str());
    file.to_string_lossy().into_owned()
}

/// 0: not measured.
fn ratio(ours: f64, theirs: f64) -> f64 {
    if theirs == 0.0 { 0.0 } else { ours / theirs }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// One round of one subject.
fn measure(subject: &Subject, options: &Options) -> io::Result<Measured> {
    let (near, far) = (subject.near(), subject.far());
    let mut m = Measured::default();
    if options.measure.contains(&Part::Tcp) {
        let (one, four) = (options.streams(1), options.streams(4));
        let (cpu_before, calls_before) = (subject.cpu(), subject.calls());
        let rate = load::tcp(near, far, subject.to, one)?;
        let (packets, calls) = subject.calls();
        m.cpu_per_gb = (subject.cpu() - cpu_before) / (rate * one.time.as_secs_f64() / 8e9);
        m.packets_per_call = (packets - calls_before.0) as f64 / (calls - calls_before.1).max(1) as f64;
        m.tcp_1 = rate / 1e9;
        m.tcp_4 = load::tcp(near, far, subject.to, four)? / 1e9;
        if let Some(back) = subject.back {
            m.tcp_reverse = load::tcp(far, near, back, one)? / 1e9;
        }
    }
    if options.measure.contains(&Part::Packets) {
        m.kpps = most_packets(subject)?;
    }
    if options.measure.contains(&Part::Trips) {
        let trips = load::round_trips(near, far, subject.to, 2000, Duration::from_micros(500))?;
        (m.ping_median, m.ping_p99) = (percentile(&trips, 0.5), percentile(&trips, 0.99));
        m.loaded_ping_p99 = percentile(&loaded_trips(subject, options)?, 0.99);
    }
    Ok(m)
}

/// In milliseconds; `trips` are sorted.
fn percentile(trips: &[Duration], share: f64) -> f64 {
    trips.get((trips.len() as f64 * share) as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

/// Round trips beside a full TCP stream.
fn loaded_trips(subject: &Subject, options: &Options) -> io::Result<Vec<Duration>> {
    let (near, far) = (subject.near(), subject.far());
    std::thread::scope(|scope| {
        let streams = load::Streams { time: Duration::from_secs(3), ..options.streams(1) };
        let bulk = scope.spawn(move || load::tcp(near, far, subject.to, streams));
        std::thread::sleep(Duration::from_millis(500));
        let trips = load::round_trips(near, far, subject.to, 400, Duration::from_millis(5));
        let _ = bulk.join();
        trips
    })
}

/// The highest rate, in steps of a twelfth, at which less than 1 % is lost, as it arrived.
fn most_packets(subject: &Subject) -> io::Result<f64> {
    let time = Duration::from_millis(700);
    let attempt = |rate: u64| -> io::Result<Option<f64>> {
        // One try may be disturbed by what else the machine does.
        for _ in 0..2 {
            let flood = load::udp(subject.near(), subject.far(), subject.to, 100, rate, time)?;
            let kpps = flood.received as f64 / time.as_secs_f64() / 1e3;
            if flood.loss() < 0.01 && kpps > rate as f64 / 1e3 * 0.9 {
                return Ok(Some(kpps));
            }
        }
        Ok(None)
    };
    // Doubled until it is too much, then halfway.
    let (mut good, mut low, mut high) = (0.0, 0, 20_000);
    while high < 2_000_000
        && let Some(kpps) = attempt(high)?
    {
        (good, low, high) = (kpps, high, high * 2);
    }
    while high - low > low / 12 {
        let rate = low.midpoint(high);
        match attempt(rate)? {
            Some(kpps) => (good, low) = (kpps, rate),
            None if rate < 1000 => break,
            None => high = rate,
        }
    }
    Ok(good)
}

/// The ratios that are known.
fn in_words(of: &Measured) -> Option<String> {
    let ratios = [
        (of.tcp_1, "in 1 stream"),
        (of.tcp_4, "in 4"),
        (of.tcp_reverse, "in reverse"),
        (of.cpu_per_gb, "the processor time per byte"),
        (of.kpps, "the packets"),
        (of.ping_median, "the ping"),
        (of.loaded_ping_p99, "the loaded ping"),
    ];
    let known = ratios.iter().filter(|(ratio, _)| ratio.is_finite() && *ratio > 0.0);
    let known: Vec<String> = known.map(|(ratio, what)| format!("{ratio:.2} × {what}")).collect();
    (!known.is_empty()).then(|| known.join(", "))
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
    for (f, m) in all.iter().map(|f| (f, &f.measured)) {
        println!(
            "{:<25} {} {} {} {} {}/{} {} {} {}/{} {}",
            f.name,
            cell(m.tcp_1, 2, 8),
            cell(m.tcp_4, 2, 8),
            cell(m.tcp_reverse, 2, 8),
            cell(m.kpps, 0, 7),
            cell(m.ping_median, 3, 6),
            cell(m.ping_p99, 3, 6),
            cell(m.loaded_ping_p99, 2, 9),
            cell(m.cpu_per_gb, 2, 9),
            cell(f.rss_before, 0, 5),
            cell(f.rss_after, 0, 5),
            cell(m.packets_per_call, 1, 9)
        );
    }
    println!();
    for f in all.iter().filter(|f| f.name != "aegisray") {
        if let Some(ratios) = in_words(&f.ours) {
            println!("aegisray / {}: {ratios}", f.name);
        }
        if let Some(ratios) = in_words(&f.ratio_of_medians).filter(|_| f.is_build) {
            println!("aegisray / {}, medians: {ratios}", f.name);
        }
    }
    let measured = all.iter().filter(|f| f.measured.ping_median > 0.0);
    if all.iter().any(|f| f.name == "bare cable") {
        for f in measured.filter(|f| f.name != "bare cable") {
            println!("{} adds {:+.3} ms to a ping, {:+.3} ms to its p99", f.name, f.ping_added, f.ping_p99_added);
        }
    }
}
