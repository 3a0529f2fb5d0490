//! Making networks and joining them.

use std::{
    ffi::OsString,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use data_encoding::BASE64URL_NOPAD;

use super::{
    Failure,
    certs::label,
    hint,
    setup::{self, CONFIG, Files},
    token::{self, TokenArgs},
};
use crate::{
    api::{Request, Response, request},
    config,
    crypto::Algorithm,
    host,
    identity::{Admission, Authority, Certificate, Identity, InviteKey, keyfile},
};

#[derive(Args)]
pub(super) struct InitArgs {
    /// Where the files go
    #[arg(long, default_value = "/etc/aegisray", value_name = "DIR")]
    dir: PathBuf,
    /// Name of the network
    #[arg(long, default_value = "home", value_parser = network_name)]
    network: String,
    /// Name of this node: letters, digits, hyphens and underscores (default: the host's)
    #[arg(long, value_parser = label)]
    name: Option<String>,
    /// Kind of identity key: rsa-2048 or ed25519
    #[arg(long, default_value = "rsa-2048")]
    algorithm: String,
    /// Also make an authority: nodes then need a certificate, which can be revoked
    #[arg(long)]
    authority: bool,
    /// Address under which other nodes reach this one, for example 203.0.113.5:51900
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Vec<SocketAddr>,
}

#[derive(Args)]
pub(super) struct InviteArgs {
    /// How long the token can be used, for example 30m, 24h, 7d
    #[arg(long, default_value = "24h", value_parser = span)]
    valid: u64,
    /// The name that the new node's certificate will carry (networks with an authority): letters, digits, hyphens and
    /// underscores
    #[arg(long, value_parser = label)]
    name: Option<String>,
    /// A group that the certificate will put the new node in, for access rules; `guests` may do what rules allow only
    #[arg(long)]
    group: Vec<String>,
    /// Where the new node finds this one, instead of the addresses that this node knows of itself
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: Vec<String>,
}

#[derive(Args)]
pub(super) struct JoinArgs {
    #[command(flatten)]
    token: TokenArgs,
    /// Where the files go
    #[arg(long, default_value = "/etc/aegisray", value_name = "DIR")]
    dir: PathBuf,
    /// Name of this node: letters, digits, hyphens and underscores (default: the host's)
    #[arg(long, value_parser = label)]
    name: Option<String>,
    /// Only write the files; start later with `aegisray up`
    #[arg(long)]
    no_start: bool,
}

/// Seconds from 90s, 30m, 24h or 7d.
fn span(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number with s, m, h or d, for example 24h".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number == 0 { Err(wrong()) } else { number.checked_mul(unit).ok_or_else(wrong) }
}

pub(super) fn algorithm(name: &str) -> anyhow::Result<Algorithm> {
    match name {
        "rsa-2048" => Ok(Algorithm::Rsa2048),
        "ed25519" => Ok(Algorithm::Ed25519),
        other => bail!("unknown algorithm `{other}`: expected rsa-2048 or ed25519"),
    }
}

fn fresh_secret() -> anyhow::Result<String> {
    Ok(BASE64URL_NOPAD.encode(&host::random::<32>().context("the system gave no randomness")?))
}

fn network_name(text: &str) -> Result<String, String> {
    config::check_network_name(text).map(|()| text.to_owned())
}

/// The name that was given, or the host's.
fn name_or_hosts(name: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let (host, name) = config::host_name();
    name.ok_or_else(|| {
        let host = if host.is_empty() {
            "this host has no name".to_owned()
        } else {
            format!("this host is called `{host}`, which no node may be called")
        };
        anyhow!(
            "{host}: choose a name for the node with --name (`aegisray init --name NAME`, `aegisray join --name NAME`)"
        )
    })
}

fn new_identity(algorithm: Algorithm) -> anyhow::Result<(Identity, Vec<u8>)> {
    let identity = Identity::generate(algorithm).context("the system gave no randomness")?;
    let pem = keyfile::identity_pem(&identity).context("the key can't be encoded")?;
    Ok((identity, pem.as_bytes().to_vec()))
}

/// A minimal configuration; the templates in `configs/` show every key.
fn configuration(name: &str, network: &str, network_lines: &str, other: &str) -> String {
    let (name, network) = (quoted(name), quoted(network));
    format!(
        "# AegisRay node. Every key: docs/configuration.md; check it with `aegisray check -config FILE`.\n\
         name: {name}\nnetwork:\n  name: {network}\n{network_lines}identity:\n  key_file: identity.pem\n{other}"
    )
}

/// A scalar of YAML, whatever is in it: what JSON has for a string is one (YAML 1.2 §1.3).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(|one| quoted(&one.to_string())).collect();
    format!("[{}]", all.join(", "))
}

/// Where the daemon of a configuration in `dir` keeps its things: in the standard places for the standard directory,
/// beside the configuration otherwise.
fn places(dir: &Path) -> &'static str {
    if dir == Path::new(config::DEFAULT_CONFIG).parent().unwrap_or(Path::new("")) {
        ""
    } else {
        "state_dir: state\nsocket: aegisray.sock\n"
    }
}

pub(super) fn init(args: &InitArgs) -> Result<(), Failure> {
    let algorithm = algorithm(&args.algorithm)?;
    let name = name_or_hosts(args.name.as_deref())?;
    let mut names = vec!["identity.pem", "network.key"];
    if args.authority {
        names.extend(["authority.pem", "authority.pub", "certificate.pem"]);
    }
    setup::check(&args.dir, &names)?;
    let mut files = Files::default();
    let (identity, pem) = new_identity(algorithm)?;
    files.secret("identity.pem", pem);
    files.secret("network.key", fresh_secret()?);
    let mut network = "  secret_file: network.key\n".to_owned();
    let mut other = String::new();
    if args.authority {
        let (authority, pem) = new_identity(Algorithm::Ed25519)?;
        files.public("authority.pub", keyfile::pem_encode("PUBLIC KEY", authority.spki()));
        files.secret("authority.pem", pem);
        let now = crate::daemon::unix_now();
        let certificate = Certificate {
            node: identity.id(),
            name: args.name.clone().unwrap_or_default(),
            addresses: vec![],
            prefixes: vec![],
            groups: vec![],
            not_before: now.saturating_sub(3600),
            not_after: now + 10 * 365 * 86_400,
            serial: host::random()?,
        };
        let signed = Authority::new(authority).issue(&certificate);
        files.secret("certificate.pem", keyfile::pem_encode("AEGISRAY CERTIFICATE", &signed));
        network += "  authority_file: authority.pub\n  authority_key_file: authority.pem\n";
        other += "  certificate_file: certificate.pem\n";
    }
    if !args.advertise.is_empty() {
        other += &format!("listen:\n  advertise: {}\n", list(&args.advertise));
    }
    other += places(&args.dir);
    files.secret(CONFIG, configuration(&name, &args.network, &network, &other));
    let path = setup::make(&args.dir, &files)?;
    println!("network `{}` made; this node is `{name}`, {}", args.network, identity.id());
    println!("  configuration  {}", path.display());
    println!("next: start it with `aegisray -config {}`, then `aegisray invite` prints a token", path.display());
    Ok(())
}

/// What `up` does where there is no configuration yet.
pub(super) fn first_start(config: &Path) -> Result<(), Failure> {
    let dir = config.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let args = InitArgs {
        dir: dir.to_owned(),
        network: "home".to_owned(),
        name: None,
        algorithm: "rsa-2048".to_owned(),
        authority: false,
        advertise: Vec::new(),
    };
    init(&args)
}

pub(super) fn invite(args: &InviteArgs, socket: &Path) -> Result<(), Failure> {
    let ask = Request::Invite {
        valid_s: args.valid,
        name: args.name.clone().unwrap_or_default(),
        groups: args.group.clone(),
        bootstrap: args.bootstrap.clone(),
    };
    match request(socket, &ask).map_err(|e| Failure::Other(hint(e)))? {
        Response::Token { token, one_time } => {
            println!("{token}");
            let hours = args.valid as f64 / 3600.0;
            let times = if one_time { "once" } else { "by anyone who has it" };
            eprintln!("good for {hours:.1} h, usable {times}; on the new machine: `sudo aegisray join`, and paste it");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("unexpected answer from the daemon").into()),
    }
}

/// Makes the files for a token; returns the configuration to start.
pub(super) fn join(args: &JoinArgs) -> Result<Option<PathBuf>, Failure> {
    let name = name_or_hosts(args.name.as_deref())?;
    setup::check(&args.dir, &["identity.pem", "network.key", "authority.pub", "invite.key"])?;
    let invite = token::read(&args.token, crate::daemon::unix_now())?;
    let mut files = Files::default();
    let (_, pem) = new_identity(config::DEFAULT_ALGORITHM)?;
    files.secret("identity.pem", pem);
    let mut network = String::new();
    if let Some(secret) = &invite.secret {
        files.secret("network.key", secret.as_bytes());
        network += "  secret_file: network.key\n";
    }
    if let Some(authority) = &invite.authority {
        files.public("authority.pub", keyfile::pem_encode("PUBLIC KEY", authority));
        network += "  authority_file: authority.pub\n";
    }
    if let (Some(secret), Some(inviter)) = (&invite.admission, invite.inviter) {
        let admission = Admission { inviter, key: InviteKey::derive(secret) };
        files.secret("invite.key", admission.to_text());
        network += "  admission_file: invite.key\n";
    }
    let other = format!(
        "peers:\n  bootstrap: {}\nmesh:\n  cidr: {}\n{}",
        list(&invite.bootstrap),
        quoted(&invite.cidr),
        places(&args.dir)
    );
    files.secret(CONFIG, configuration(&name, &invite.network, &network, &other));
    let path = setup::make(&args.dir, &files)?;
    eprintln!("joined network `{}` as `{name}`; configuration: {}", invite.network, path.display());
    if args.no_start {
        eprintln!("start with: aegisray -config {}", path.display());
        return Ok(None);
    }
    Ok(Some(path))
}

/// Goes on as the daemon of a configuration, in this process and with another command line: everybody on this machine can read the one
/// that it has, with a token perhaps. It returns only with an error.
pub(super) fn go_on(config: &Path) -> Failure {
    let name = std::env::args_os().next().unwrap_or_else(|| OsString::from("aegisray"));
    // By its path, which names the process in lists; where the file was replaced meanwhile, what runs here.
    let program = std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into());
    let mut argument = OsString::from("--config=");
    argument.push(config);
    let error = Command::new(program).arg0(name).arg(argument).exec();
    anyhow!("cannot go on as the daemon: {error}; start it with `aegisray -config {}`", config.display()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!((span("90s"), span("24h"), span("7d")), (Ok(90), Ok(86_400), Ok(604_800)));
        assert!(span("h").is_err() && span("0s").is_err() && span("5").is_err() && span("").is_err());
    }

    #[test]
    fn whatever_is_called_somehow_stands_in_the_file_as_it_is() {
        for name in ["no", "~", "007", "1e3", "x # y", "*a", "'q", "a: b", "\u{e9}\u{7}\n\"", "null", ""] {
            let text = configuration(name, "true", "", &format!("advertise: {}\n", list(&[name, "b"])));
            let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!((&read["name"], &read["network"]["name"]), (&name.into(), &"true".into()), "{text}");
            assert_eq!(read["advertise"], serde_json::json!([name, "b"]));
        }
    }
}
