//! Keys and certificates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use prost::Message as _;

use super::Failure;
use crate::{
    api, config, host,
    identity::{Authority, Certificate, Identity, Revocations, keyfile},
    types::{IpPrefix, LabelError, NodeId, check_label, utc},
    wire::{self, proto},
};

const CERTIFICATE: &str = "AEGISRAY CERTIFICATE";
const REVOCATIONS: &str = "AEGISRAY REVOCATIONS";

#[derive(Args)]
pub(super) struct KeygenArgs {
    /// rsa-2048 or ed25519
    #[arg(long, default_value = "rsa-2048")]
    algorithm: String,
    /// Where the private key goes (mode 0600); an authority's public key goes beside it with the ending .pub
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Subcommand)]
pub(super) enum CertCommand {
    /// Sign a certificate for a node
    Issue(IssueArgs),
    /// Put a node or a certificate on the revocation list, and give the list to the running daemon
    Revoke(RevokeArgs),
    /// Print what a certificate says
    Show {
        /// The certificate's file
        file: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct IssueArgs {
    /// The authority's private key
    #[arg(long, value_name = "FILE")]
    authority_key: PathBuf,
    /// The node's NodeId (`aegisray check` and `aegisray status` print it)
    #[arg(long)]
    node: NodeId,
    /// The name that the network knows the node by: letters, digits, hyphens and underscores
    #[arg(long, value_parser = label)]
    name: Option<String>,
    /// Days for which it is good
    #[arg(long, default_value_t = 365)]
    days: u64,
    /// A fixed mesh address; may be given once for IPv4 and once for IPv6
    #[arg(long)]
    address: Vec<std::net::IpAddr>,
    /// A prefix that the node may announce
    #[arg(long)]
    prefix: Vec<IpPrefix>,
    /// A group that the node belongs to
    #[arg(long)]
    group: Vec<String>,
    /// Where the certificate goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// The authority's private key
    #[arg(long, value_name = "FILE")]
    authority_key: PathBuf,
    /// The list; made if it isn't there
    #[arg(long, value_name = "FILE")]
    list: PathBuf,
    /// The node to turn away
    #[arg(long)]
    node: Option<NodeId>,
    /// The serial number of the certificate to turn away (`cert show` prints it)
    #[arg(long)]
    serial: Option<String>,
    /// Days after which the certificates in question have expired, so that the entry can go (`cert show` prints the days left)
    #[arg(long)]
    days: Option<u64>,
    /// Only write the list; don't give it to the running daemon
    #[arg(long)]
    offline: bool,
}

/// A name that a member may have.
pub(super) fn label(text: &str) -> Result<String, LabelError> {
    check_label(text).map(|()| text.to_owned())
}

pub(super) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    let public = args.out.with_extension("pub");
    if let Some(file) = [&args.out, &public].into_iter().find(|file| file.exists()) {
        return Err(anyhow!("{} exists already", file.display()).into());
    }
    let identity = Identity::generate(super::network::algorithm(&args.algorithm)?)?;
    keyfile::write_identity(&args.out, &identity)?;
    fs::write(&public, keyfile::pem_encode("PUBLIC KEY", identity.spki())).map_err(|e| {
        // Both or none, so that the same command can be given again.
        [&args.out, &public].into_iter().for_each(|file| drop(fs::remove_file(file)));
        anyhow!("cannot write {}: {e}", public.display())
    })?;
    println!("{}", identity.id());
    Ok(())
}

pub(super) fn run(command: &CertCommand, socket: Option<&Path>) -> Result<(), Failure> {
    match command {
        CertCommand::Issue(args) => issue(args),
        CertCommand::Revoke(args) => revoke(args, socket.unwrap_or(Path::new(config::DEFAULT_SOCKET))),
        CertCommand::Show { file } => show(file),
    }
}

fn issue(args: &IssueArgs) -> Result<(), Failure> {
    let authority = Authority::new(keyfile::read_identity(&args.authority_key)?);
    let now = crate::daemon::unix_now();
    let certificate = Certificate {
        node: args.node,
        name: args.name.clone().unwrap_or_default(),
        addresses: args.address.clone(),
        prefixes: args.prefix.clone(),
        groups: args.group.clone(),
        not_before: now.saturating_sub(3600),
        not_after: now + args.days * 86_400,
        serial: host::random()?,
    };
    let signed = authority.issue(&certificate);
    keyfile::write_secret(&args.out, keyfile::pem_encode(CERTIFICATE, &signed).as_bytes())?;
    println!("serial {}", HEXLOWER.encode(&certificate.serial));
    Ok(())
}

fn revoke(args: &RevokeArgs, socket: &Path) -> Result<(), Failure> {
    let authority = Authority::new(keyfile::read_identity(&args.authority_key)?);
    let mut list = if args.list.exists() {
        let bytes = keyfile::read_public(&args.list, REVOCATIONS)?;
        Revocations::open(&bytes, authority.spki())
            .with_context(|| format!("{} is not a list of this authority", args.list.display()))?
    } else {
        Revocations::default()
    };
    if args.node.is_none() && args.serial.is_none() {
        return Err(anyhow!("say what to revoke: --node NODEID or --serial HEX").into());
    }
    list.prune(crate::daemon::unix_now());
    if !list.has_room() {
        return Err(anyhow!("the revocation list is full: remove members by renewing the network secret").into());
    }
    let end = args.days.map(|days| crate::daemon::unix_now().saturating_add(days.saturating_mul(86_400)));
    list.nodes.extend(args.node);
    list.nodes_end.extend(args.node.zip(end));
    if let Some(serial) = &args.serial {
        let bytes = HEXLOWER.decode(serial.as_bytes()).ok().and_then(|b| <[u8; 16]>::try_from(b).ok());
        let bytes = bytes.ok_or_else(|| anyhow!("a serial has 32 hexadecimal digits"))?;
        list.serials.insert(bytes);
        list.serials_end.extend(Some(bytes).zip(end));
    }
    list.version += 1;
    let signed = authority.revoke(&list);
    keyfile::write_secret(&args.list, keyfile::pem_encode(REVOCATIONS, &signed).as_bytes())?;
    println!("revocation list version {}", list.version);
    if !args.offline {
        api::request(socket, &api::Request::Revoke { list: HEXLOWER.encode(&signed) })
            .map_err(|e| Failure::Other(super::hint(e)))?;
        println!("in force, and spreading");
    }
    Ok(())
}

fn show(file: &Path) -> Result<(), Failure> {
    let bytes = keyfile::read_public(file, CERTIFICATE)?;
    let blob: proto::SignedBlob = wire::decode(&bytes, "certificate")?;
    let c = proto::Certificate::decode(&*blob.body)?;
    let node = NodeId::from_slice(&c.node_id).ok_or_else(|| anyhow!("no NodeId in it"))?;
    let list = |v: Vec<String>| if v.is_empty() { "none".to_owned() } else { v.join(", ") };
    let now = crate::daemon::unix_now();
    let state = if now < c.not_before {
        "NOT YET VALID"
    } else if now >= c.not_after {
        "EXPIRED"
    } else {
        "valid"
    };
    println!("node       {node}");
    println!("name       {}", c.name);
    println!("serial     {}", HEXLOWER.encode(&c.serial));
    println!("authority  {} (SHA-256 of its key)", HEXLOWER.encode(&c.network));
    println!(
        "validity   {state}: {} to {} ({} days left)",
        utc(c.not_before),
        utc(c.not_after),
        c.not_after.saturating_sub(now) / 86_400
    );
    if state != "valid" {
        println!("clock      {} here: is it right?", utc(now));
    }
    println!(
        "addresses  {}",
        list(c.addresses.iter().filter_map(|a| wire::decode_ip(a).ok()).map(|a| a.to_string()).collect())
    );
    println!(
        "prefixes   {}",
        list(c.prefixes.iter().filter_map(|p| wire::decode_prefix(p).ok()).map(|p| p.to_string()).collect())
    );
    println!("groups     {}", list(c.groups));
    println!("note       the signature is checked by the nodes, against their network's authority");
    Ok(())
}
