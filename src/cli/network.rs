//! Making networks and joining them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use data_encoding::BASE64URL_NOPAD;

use super::{Failure, certs::label, hint};
use crate::{
    api::{Request, Response, request},
    config,
    crypto::Algorithm,
    host,
    identity::{Admission, Authority, Certificate, Identity, Invite, InviteKey, keyfile},
    types::UnixTime,
};

#[derive(Args)]
pub(super) struct InitArgs {
    /// Where the files go
    #[arg(long, default_value = "/etc/aegisray", value_name = "DIR")]
    dir: PathBuf,
    /// Name of the network
    #[arg(long, default_value = "home")]
    network: String,
    /// Name of this node: letters, digits and hyphens (default: the host's)
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
    advertise: Vec<String>,
}

#[derive(Args)]
pub(super) struct InviteArgs {
    /// How long the token can be used, for example 30m, 24h, 7d
    #[arg(long, default_value = "24h", value_parser = span)]
    valid: u64,
    /// The name that the new node's certificate will carry (networks with an authority): letters, digits and hyphens
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
    /// What `aegisray invite` printed
    token: String,
    /// Where the files go
    #[arg(long, default_value = "/etc/aegisray", value_name = "DIR")]
    dir: PathBuf,
    /// Name of this node: letters, digits and hyphens (default: the host's)
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

fn refuse_to_overwrite(dir: &Path) -> anyhow::Result<()> {
    for file in ["peer.yaml", "network.key", "identity.pem"] {
        if dir.join(file).exists() {
            bail!("{} exists already: choose another --dir, or remove it first", dir.join(file).display());
        }
    }
    Ok(())
}

fn make_identity(path: &Path, algorithm: Algorithm) -> anyhow::Result<Identity> {
    let identity = Identity::generate(algorithm).context("the system gave no randomness")?;
    keyfile::write_identity(path, &identity)?;
    Ok(identity)
}

/// A minimal configuration; the templates in `configs/` show every key.
fn configuration(name: Option<&str>, network: &str, network_lines: &str, other: &str) -> String {
    let name = name.map(|n| format!("name: {n}\n")).unwrap_or_default();
    format!(
        "# AegisRay node. Every key: docs/configuration.md; check it with `aegisray check -config FILE`.\n\
         {name}network:\n  name: {network}\n{network_lines}identity:\n  key_file: identity.pem\n{other}"
    )
}

fn write_config(dir: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join("peer.yaml");
    // Secrets may stand in it, now or later.
    keyfile::write_secret(&path, text.as_bytes())?;
    Ok(path)
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
    refuse_to_overwrite(&args.dir)?;
    let algorithm = algorithm(&args.algorithm)?;
    let identity = make_identity(&args.dir.join("identity.pem"), algorithm)?;
    keyfile::write_secret(&args.dir.join("network.key"), fresh_secret()?.as_bytes())?;
    let mut network = "  secret_file: network.key\n".to_owned();
    if args.authority {
        let authority = make_identity(&args.dir.join("authority.pem"), Algorithm::Ed25519)?;
        let public = keyfile::pem_encode("PUBLIC KEY", authority.spki());
        fs::write(args.dir.join("authority.pub"), public)?;
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
        let pem = keyfile::pem_encode("AEGISRAY CERTIFICATE", &signed);
        keyfile::write_secret(&args.dir.join("certificate.pem"), pem.as_bytes())?;
        network += "  authority_file: authority.pub\n  authority_key_file: authority.pem\n";
    }
    let mut other = if args.authority { "  certificate_file: certificate.pem\n".to_owned() } else { String::new() };
    if !args.advertise.is_empty() {
        other += &format!("listen:\n  advertise: [{}]\n", quoted(&args.advertise));
    }
    other += places(&args.dir);
    let path = write_config(&args.dir, &configuration(args.name.as_deref(), &args.network, &network, &other))?;
    config::Config::load(&path)?;
    println!("network `{}` made; this node is {}", args.network, identity.id());
    println!("  configuration  {}", path.display());
    println!("next: start it with `aegisray -config {}`, then `aegisray invite` prints a token", path.display());
    Ok(())
}

fn quoted(list: &[String]) -> String {
    list.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ")
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
            eprintln!("good for {hours:.1} h, usable {times}; on the new machine: sudo aegisray join TOKEN");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("unexpected answer from the daemon").into()),
    }
}

/// Writes the files for a token; returns the configuration to start.
pub(super) fn join(args: &JoinArgs) -> Result<Option<PathBuf>, Failure> {
    let now: UnixTime = crate::daemon::unix_now();
    let invite = Invite::from_token(&args.token, now)?;
    refuse_to_overwrite(&args.dir)?;
    make_identity(&args.dir.join("identity.pem"), config::DEFAULT_ALGORITHM)?;
    let mut network = String::new();
    if let Some(secret) = &invite.secret {
        keyfile::write_secret(&args.dir.join("network.key"), secret.as_bytes())?;
        network += "  secret_file: network.key\n";
    }
    if let Some(authority) = &invite.authority {
        fs::write(args.dir.join("authority.pub"), keyfile::pem_encode("PUBLIC KEY", authority))?;
        network += "  authority_file: authority.pub\n";
    }
    if let (Some(secret), Some(inviter)) = (&invite.admission, invite.inviter) {
        let admission = Admission { inviter, key: InviteKey::derive(secret) };
        keyfile::write_secret(&args.dir.join("invite.key"), admission.to_text().as_bytes())?;
        network += "  admission_file: invite.key\n";
    }
    let other = format!(
        "peers:\n  bootstrap: [{}]\nmesh:\n  cidr: {}\n{}",
        quoted(&invite.bootstrap),
        invite.cidr,
        places(&args.dir)
    );
    let text = configuration(args.name.as_deref(), &invite.network, &network, &other);
    let path = write_config(&args.dir, &text)?;
    config::Config::load(&path)?;
    eprintln!("joined network `{}`; configuration: {}", invite.network, path.display());
    if args.no_start {
        eprintln!("start with: aegisray -config {}", path.display());
        return Ok(None);
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!((span("90s"), span("24h"), span("7d")), (Ok(90), Ok(86_400), Ok(604_800)));
        assert!(span("h").is_err() && span("0s").is_err() && span("5").is_err() && span("").is_err());
    }
}
