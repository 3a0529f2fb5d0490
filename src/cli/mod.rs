//! Floor 8: the command line.

mod access;
mod certs;
mod chat;
mod exit;
mod netcheck;
mod network;
mod output;
mod portal;
mod relay;
mod setup;
mod show;
mod simulation;
mod stealth;
mod table;
mod token;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{
    api::ClientError,
    config::{self, Config, ConfigError},
    daemon::{self, Early},
    host, lab, sim,
};

const AFTER_HELP: &str = "\
Begin here:
  aegisray lab                    see a mesh work, on this machine alone, in a minute
  sudo aegisray up                make a network and start its first node
  sudo aegisray invite            print a token for the next machine
  sudo aegisray join              on that machine: asks for the token, joins and starts
  sudo aegisray -config FILE      run a node from a configuration file

A node can be named by its name, its NodeId, the beginning of its NodeId, or a mesh address.
Exit codes: 0 done, 1 failed, 2 wrong command line or configuration.";

#[derive(Parser)]
#[command(name = "aegisray", version, about = "A mesh VPN: every node finds, authenticates and reaches every other")]
#[command(after_help = AFTER_HELP, subcommand_negates_reqs = true, max_term_width = 110)]
struct Cli {
    /// Configuration file (`-config FILE` works too). Without a command: run the node that it describes
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Management socket of the daemon to ask
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node; makes identity, network and configuration first if there are none
    Up,
    /// Validate a configuration file and the keys that it names
    Check,
    /// Make a new network: its secret, this node's identity, a configuration
    Init(network::InitArgs),
    /// Print a token with which a new node joins this network
    Invite(network::InviteArgs),
    /// Join the network of a token, and start
    Join(network::JoinArgs),
    /// Make an identity key
    Keygen(certs::KeygenArgs),
    /// Issue, revoke and show membership certificates
    #[command(subcommand)]
    Cert(certs::CertCommand),
    /// What this node is and how it is doing
    Status(Json),
    /// The nodes that this one has sessions with
    Peers(Json),
    /// The way to every node
    Routes(Json),
    /// Measure the round trip to a node, end to end through the mesh
    Ping(show::PingArgs),
    /// Show the nodes on the way to a node
    Trace(show::TraceArgs),
    /// The exit through which everything outside the mesh goes
    Exit(exit::ExitArgs),
    /// Access rules: what is allowed, and why
    #[command(subcommand)]
    Acl(access::AclCommand),
    /// WireGuard clients, phones and routers say, that come in through this node
    #[command(subcommand)]
    Portal(portal::PortalCommand),
    /// What the network here does to UDP: NAT, filters, who is near
    Netcheck(netcheck::NetcheckArgs),
    /// The disguise
    #[command(subcommand)]
    Stealth(stealth::StealthCommand),
    /// The chat: platforms, channels, moderation
    Chat(chat::ChatArgs),
    /// Run a relay of the chat on a public server: no mesh, no people, only messages that wait
    ChatRelay(relay::RelayArgs),
    /// Read the configuration again: what can change without a restart does
    Reload,
    /// Close the kill switch that the configuration wants, without a daemon: for the start of the host, before it has a network
    Fence,
    /// End the running daemon
    Down,
    /// Build a mesh with NATs on this machine and show it at work
    Lab(lab::Options),
    /// Measure the data plane on this machine, beside a bare cable and other VPNs
    Bench(lab::bench::Options),
    /// Run many nodes under virtual time and a seeded network
    Simulate(SimulateArgs),
}

#[derive(Args)]
struct Json {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SimulateArgs {
    /// How many nodes: 2 to 20,000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    nodes: u32,
    /// The run's seed: the same options and seed replay the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of datagrams lost, 0 to 0.9
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Share of datagrams delivered twice, 0 to 0.9
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    duplicate: f64,
    /// Random delay per datagram in milliseconds: what reorders them
    #[arg(long, default_value_t = 3)]
    jitter: u64,
    /// Crashes per minute during the chaos phase
    #[arg(long, default_value_t = 0.0)]
    churn: f64,
    /// Seconds for which the network is split in two during the chaos phase
    #[arg(long, default_value_t = 0)]
    partition: u64,
    /// Length of the chaos phase in seconds
    #[arg(long, default_value_t = 0)]
    chaos: u64,
    /// Virtual seconds after which the run has failed to converge
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Virtual seconds of idling, to measure what the mesh costs when nothing happens
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// How many of the nodes behave maliciously once the network has converged; it then has an authority
    #[arg(long, default_value_t = 0)]
    hostile: u32,
    /// Virtual hours for which they do
    #[arg(long, default_value_t = 0.5, requires = "hostile")]
    hours: f64,
    /// They all behave in this way only, for example `lies`; without it each does in two or three ways, by the seed
    #[arg(long, requires = "hostile", value_name = "WAY")]
    way: Option<sim::Way>,
    /// They do so from the start, while the network converges
    #[arg(long, requires = "hostile")]
    early: bool,
    /// Run several seeds, one after the other, for example 1..20
    #[arg(long, value_parser = seeds, value_name = "FIRST..LAST", conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    #[command(flatten)]
    json: Json,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let expected = || "expected FIRST..LAST, for example 1..20".to_owned();
    let (first, last) = text.split_once("..").ok_or_else(expected)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| expected());
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok((first, last)) } else { Err(expected()) }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.0..=0.9).contains(&value) { Ok(value) } else { Err("expected 0 to 0.9".to_owned()) }
}

/// What went wrong, with its exit code.
enum Failure {
    Config(ConfigError),
    Other(anyhow::Error),
    /// Already told.
    Silent(u8),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast::<ConfigError>() {
            Ok(config) => Self::Config(config),
            Err(other) => Self::Other(other),
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    output::quietly(run_all)
}

fn run_all() -> ExitCode {
    let cli = match Cli::try_parse_from(normalized(std::env::args_os())) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(e)) => {
            eprintln!("aegisray: {e}");
            ExitCode::from(2)
        }
        Err(Failure::Other(e)) => {
            eprintln!("aegisray: {e}");
            ExitCode::from(1)
        }
        Err(Failure::Silent(code)) => ExitCode::from(code),
    }
}

/// `-config FILE` and `-config=FILE` as `--config`.
fn normalized(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    args.map(|arg| match arg.to_str() {
        Some("-config") => "--config".into(),
        Some(text) if text.starts_with("-config=") => format!("-{text}").into(),
        _ => arg,
    })
    .collect()
}

fn run(cli: Cli) -> Result<(), Failure> {
    let config_path = cli.config.clone().unwrap_or_else(|| PathBuf::from(config::DEFAULT_CONFIG));
    let socket = || socket(&cli);
    match &cli.command {
        None if cli.config.is_some() => start(&config_path),
        None => {
            use clap::CommandFactory as _;
            let _ = Cli::command().print_help();
            Err(Failure::Silent(2))
        }
        Some(Command::Up) => {
            if !config_path.exists() {
                network::first_start(&config_path)?;
            }
            start(&config_path)
        }
        Some(Command::Check) => check(&config_path),
        Some(Command::Init(args)) => network::init(args),
        Some(Command::Invite(args)) => network::invite(args, &socket()?),
        Some(Command::Join(args)) => network::join(args)?.map_or(Ok(()), |path| Err(network::go_on(&path))),
        Some(Command::Keygen(args)) => certs::keygen(args),
        Some(Command::Cert(command)) => certs::run(command, cli.socket.as_deref()),
        Some(Command::Status(json)) => show::status(&socket()?, json.json),
        Some(Command::Peers(json)) => show::peers(&socket()?, json.json),
        Some(Command::Routes(json)) => show::routes(&socket()?, json.json),
        Some(Command::Ping(args)) => show::ping(args, &socket()?),
        Some(Command::Trace(args)) => show::trace(args, &socket()?),
        Some(Command::Exit(args)) => exit::run(args, &config_path, socket()),
        Some(Command::Acl(command)) => access::run(command, &socket()?),
        Some(Command::Portal(command)) => portal::run(command, &socket()?),
        Some(Command::Netcheck(args)) => netcheck::run(args, &config_path),
        Some(Command::Stealth(command)) => stealth::run(command, &config_path),
        Some(Command::Chat(args)) => chat::run(args, socket),
        Some(Command::ChatRelay(args)) => {
            log_to_terminal(LevelFilter::INFO);
            relay::run(args)
        }
        Some(Command::Fence) => {
            let said = match daemon::close(&config_path).map_err(anyhow::Error::from)? {
                Early::Closed => {
                    "closed: nothing leaves this host until a daemon has an exit (exit_options.kill_switch)"
                }
                Early::Running => "a daemon is running, and sees to it",
                Early::NotWanted => "the configuration wants no kill switch",
            };
            println!("{said}");
            Ok(())
        }
        Some(Command::Reload) => show::reload(&socket()?),
        Some(Command::Down) => {
            crate::api::request(&socket()?, &crate::api::Request::Stop)?;
            Ok(())
        }
        Some(Command::Lab(options)) => match lab::run(options) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Silent(1)),
            Err(e) => Err(e.into()),
        },
        Some(Command::Bench(options)) => Ok(lab::bench::run(options)?),
        Some(Command::Simulate(args)) => simulate(args),
    }
}

/// Makes all of a node but what the host has to give, as a start does; says what the host would say.
fn check(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path)?;
    let doubts = daemon::check(&config).map_err(|e| {
        eprintln!("aegisray: {}: no node can run with it: {e}", path.display());
        Failure::Silent(2)
    })?;
    println!("{}: good", path.display());
    println!("  node     {} ({})", config.name, config.identity.id());
    println!("  network  {}", config.network.name());
    let (ipv4, ipv6) = (config.network.ipv4(&config.identity.id(), 0), config.network.ipv6(&config.identity.id()));
    println!("  address  {ipv4} (unless taken), {ipv6}");
    doubts.iter().for_each(|doubt| println!("  warning  {doubt}"));
    daemon::surroundings(&config).iter().for_each(|found| println!("  here     {found}"));
    Ok(())
}

fn socket(cli: &Cli) -> Result<PathBuf, Failure> {
    match (&cli.socket, &cli.config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, Some(config)) => Ok(Config::load(config)?.socket),
        (None, None) => Ok(PathBuf::from(config::DEFAULT_SOCKET)),
    }
}

fn start(path: &Path) -> Result<(), Failure> {
    // A daemon that lost a thread would look alive and move nothing: end, and let the service manager start anew.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    // Whatever is wrong with the rest of the configuration, or with the disk: the kill switch is closed before it is looked at.
    let closed = daemon::close(path);
    let config = Config::load(path)?;
    // Who asks for which name is nobody's business, unless somebody looks for a fault.
    let level = |name: &str| {
        let level = name.parse().unwrap_or(LevelFilter::INFO);
        let names = if level == LevelFilter::TRACE { [level; 2] } else { [LevelFilter::WARN, LevelFilter::ERROR] };
        // Anybody in the mesh can ask nonsense.
        Targets::new().with_default(level).with_target("hickory", names[0]).with_target("hickory_server", names[1])
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let (filter, levels) = reload::Layer::new(level(&config.log_level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    if let Err(error) = closed {
        tracing::error!(%error, "no policy routing: the kill switch is not closed yet (exit)");
    }
    // It fails only if there is no log any more.
    let set_level = move |name: &str| drop(levels.reload(level(name)));
    daemon::run(config, Box::new(set_level))?;
    Ok(())
}

/// A log for programs that read no configuration.
fn log_to_terminal(level: LevelFilter) {
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(level).with(lines).init();
}

fn simulate(args: &SimulateArgs) -> Result<(), Failure> {
    if args.hostile + 2 > args.nodes && args.hostile > 0 {
        return Err(anyhow::anyhow!("at least two of the nodes have to be honest").into());
    }
    let plan = sim::Plan {
        count: args.hostile as usize,
        length: Duration::try_from_secs_f64(args.hours * 3600.0)?,
        only: args.way,
        early: args.early,
    };
    let options = |seed| sim::Options {
        nodes: args.nodes as usize,
        seed,
        loss: args.loss,
        duplicate: args.duplicate,
        jitter: Duration::from_millis(args.jitter),
        churn: args.churn,
        partition: Duration::from_secs(args.partition),
        chaos: Duration::from_secs(args.chaos),
        limit: Duration::from_secs(args.limit),
        idle: Duration::from_secs(args.idle),
        hostile: (args.hostile > 0).then(|| plan.clone()),
    };
    let mut progress = |phase: &str| {
        if !args.json.json {
            eprintln!("  {phase} …");
        }
    };
    if let Some((first, last)) = args.seeds {
        let reports: Vec<sim::Report> = (first..=last)
            .map(|seed| {
                let report = sim::run(&options(seed), &mut |_| {});
                if !args.json.json {
                    simulation::line(&report);
                }
                report
            })
            .collect();
        if args.json.json {
            println!("{}", serde_json::to_string_pretty(&reports)?);
        } else {
            simulation::sum(&reports);
        }
        return if reports.iter().all(sim::Report::is_good) { Ok(()) } else { Err(Failure::Silent(1)) };
    }
    let report = sim::run(&options(args.seed), &mut progress);
    if args.json.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        simulation::report(&report);
        if !report.is_good() {
            println!("replay with: aegisray {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
        }
    }
    if report.is_good() { Ok(()) } else { Err(Failure::Silent(1)) }
}

/// The hint for who asks a daemon that isn't there as an ordinary user.
fn hint(error: ClientError) -> anyhow::Error {
    if host::is_root() { error.into() } else { anyhow::anyhow!("{error} (try again with sudo)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_config() {
        for spelling in [&["-config", "f"][..], &["-config=f"], &["--config", "f"], &["--config=f"]] {
            for command in [None, Some("check")] {
                let args = ["aegisray"].iter().chain(command.iter()).chain(spelling).map(OsString::from);
                let cli = Cli::try_parse_from(normalized(args)).unwrap();
                assert_eq!(cli.config, Some(PathBuf::from("f")));
            }
        }
        assert!(Cli::try_parse_from(normalized(["aegisray", "-confg", "f"].iter().map(OsString::from))).is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
