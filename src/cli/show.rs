//! Commands that ask the daemon and print what it says.

use std::{net::IpAddr, path::Path, time::Duration};

use clap::Args;

use super::{
    Failure, hint,
    table::{bytes, duration, table},
};
use crate::{
    api::{Request, Response, request},
    daemon,
    identity::Refusal,
    node::{Carrier, RouteStatus},
    types::{INFINITY, utc},
};

#[derive(Args)]
pub(super) struct PingArgs {
    /// Name, NodeId, or mesh address
    node: String,
    /// How many echoes
    #[arg(short, long, default_value_t = 4)]
    count: u32,
    /// Payload bytes, at most 1,200
    #[arg(short, long, default_value_t = 56)]
    size: usize,
    /// Print one JSON object per echo
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct TraceArgs {
    /// Name, NodeId, or mesh address
    node: String,
    #[arg(long)]
    json: bool,
}

fn ask(socket: &Path, what: &Request) -> Result<Response, Failure> {
    request(socket, what).map_err(|e| Failure::Other(hint(e)))
}

fn odd() -> Failure {
    Failure::Other(anyhow::anyhow!("the daemon gave an answer that this program doesn't know: are they one version?"))
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

pub(super) fn status(socket: &Path, json: bool) -> Result<(), Failure> {
    let Response::Status(s) = ask(socket, &Request::Status)? else { return Err(odd()) };
    if json {
        return print_json(&s);
    }
    let list = |v: Vec<String>| if v.is_empty() { "none".to_owned() } else { v.join(", ") };
    let counted = |map: &std::collections::BTreeMap<String, u64>| {
        list(map.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{k} {n}")).collect())
    };
    let n = &s.node;
    println!("node       {} ({})", n.name, n.node_id);
    println!("network    {}", n.network);
    println!("addresses  {}", list(n.addresses.iter().map(ToString::to_string).collect()));
    println!("interface  {} (MTU {})", s.interface, s.mtu);
    println!("listening  UDP {}", s.listen);
    println!("endpoints  {}", list(n.endpoints.iter().map(ToString::to_string).collect()));
    if n.keepalive_s > 0 {
        println!(
            "keepalive  idle links are probed every {} s at the most rarely, as the NAT here allows",
            n.keepalive_s
        );
    }
    println!("mesh       {} links, {} of {} known nodes reachable", n.links, n.reachable_nodes, n.known_nodes);
    println!("running    {} (version {}, pid {}, {})", duration(s.uptime_s), s.version, s.pid, bytes(s.rss_kib * 1024));
    if s.stealth.0 != "off" {
        println!("disguise   {} (says hello as {})", s.stealth.0, s.stealth.1);
    }
    for (what, why) in &s.missing {
        println!("MISSING    {what}: {why}");
    }
    if !s.restored.is_empty() {
        let all = s.restored.iter().map(|(what, n)| format!("{what} {n}"));
        println!("put back   {}", list(all.collect()));
    }
    let offloads = s.offloads.iter().map(|(name, on)| format!("{name} {}", if *on { "on" } else { "off" }));
    println!("offloads   {}", list(offloads.collect()));
    println!("threads    {} from the TUN device, {} from the network", s.queues.0, s.queues.1);
    println!("traffic    {}", counted(&s.traffic));
    println!("counters   {}", counted(&n.counters));
    println!("dropped    {}", counted(&n.dropped));
    println!("refused    {}", counted(&n.refused));
    if n.refused.get(&Refusal::ExpiredCertificate.to_string()).is_some_and(|n| *n > 0) {
        println!("clock      {} here: is it right? Certificates are good or not by it", utc(daemon::unix_now()));
    }
    n.notes.iter().for_each(|note| println!("note       {note}"));
    Ok(())
}

pub(super) fn reload(socket: &Path) -> Result<(), Failure> {
    let Response::Reloaded { applied, restart } = ask(socket, &Request::Reload)? else { return Err(odd()) };
    let list = |keys: Vec<String>| if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
    println!("in force now      {}", list(applied));
    println!("after a restart   {}", list(restart));
    Ok(())
}

pub(super) fn peers(socket: &Path, json: bool) -> Result<(), Failure> {
    let Response::Peers { peers } = ask(socket, &Request::Peers)? else { return Err(odd()) };
    if json {
        return print_json(&peers);
    }
    let rows: Vec<Vec<String>> = peers
        .iter()
        .map(|p| {
            let link = p.link.as_ref();
            vec![
                p.name.clone(),
                owned(&p.addresses[..p.addresses.len().min(1)], &p.contested),
                match link {
                    Some(l) if l.up => match l.over {
                        Carrier::Udp => l.addr.to_string(),
                        Carrier::Tcp => format!("{} (TCP)", l.addr),
                        Carrier::Tls => format!("{} (TLS)", l.addr),
                        Carrier::Turn => format!("{} (TURN)", l.addr),
                    },
                    Some(l) if p.obstacle.is_none() => format!("{} (down)", l.addr),
                    // Neither link nor session: there can be none.
                    None if p.cipher.is_none() && p.obstacle.is_some() => p.obstacle.clone().unwrap_or_default(),
                    _ => p.obstacle.as_ref().map_or("relayed".to_owned(), |why| format!("relayed: {why}")),
                },
                link.and_then(|l| l.rtt_ms).map_or("-".to_owned(), |r| format!("{r:.2} ms")),
                link.map_or("-".to_owned(), |l| format!("{} %", l.loss_percent)),
                p.cipher.clone().unwrap_or_else(|| "-".to_owned()),
                p.session_age_s.map_or("-".to_owned(), duration),
                bytes(p.sent_bytes),
                bytes(p.received_bytes),
            ]
        })
        .collect();
    print!("{}", table(&["NODE", "ADDRESS", "LINK", "RTT", "LOSS", "CIPHER", "SESSION", "SENT", "RECEIVED"], &rows));
    if rows.is_empty() {
        println!("no peers yet: add one under peers.bootstrap, or invite one (`aegisray invite`)");
    }
    Ok(())
}

/// The addresses of a node, and those that it claims though they are another's or nobody's.
fn owned(addresses: &[IpAddr], contested: &[IpAddr]) -> String {
    let own = addresses.iter().map(ToString::to_string);
    own.chain(contested.iter().map(|ip| format!("({ip} contested)"))).collect::<Vec<_>>().join(" ")
}

/// A network, and whether another node is used for it.
fn prefix(of: &RouteStatus) -> impl Fn(&String) -> String {
    |p| if of.standby.contains(p) { format!("({p})") } else { p.clone() }
}

pub(super) fn routes(socket: &Path, json: bool) -> Result<(), Failure> {
    let Response::Routes { routes } = ask(socket, &Request::Routes)? else { return Err(odd()) };
    if json {
        return print_json(&routes);
    }
    let rows: Vec<Vec<String>> = routes
        .iter()
        .map(|r| {
            vec![
                r.name.clone(),
                owned(&r.addresses, &r.contested),
                if r.direct { "direct".to_owned() } else { format!("via {}", r.next_hop_name) },
                format!("{:.2} ms", f64::from(r.metric) / 1e3),
                r.backup.clone().unwrap_or_else(|| "-".to_owned()),
                r.prefixes.iter().map(prefix(r)).collect::<Vec<_>>().join(" "),
            ]
        })
        .collect();
    print!("{}", table(&["NODE", "ADDRESSES", "WAY", "METRIC", "BACKUP", "PREFIXES"], &rows));
    Ok(())
}

pub(super) fn ping(args: &PingArgs, socket: &Path) -> Result<(), Failure> {
    let mut times = Vec::new();
    for i in 0..args.count {
        if i > 0 {
            std::thread::sleep(Duration::from_millis(200));
        }
        match request(socket, &Request::Ping { node: args.node.clone(), size: args.size }) {
            Ok(Response::Pong { node, name, rtt_us }) => {
                times.push(rtt_us);
                if args.json {
                    println!("{}", serde_json::json!({"node": node, "name": name, "rtt_us": rtt_us}));
                } else {
                    println!("echo from {name}: {:.3} ms", rtt_us as f64 / 1e3);
                }
            }
            Ok(_) => return Err(odd()),
            Err(crate::api::ClientError::Refused(why)) if why.starts_with("no answer") => println!("{why}"),
            Err(e) => return Err(Failure::Other(hint(e))),
        }
    }
    times.sort_unstable();
    if !args.json {
        let median = times.get(times.len() / 2).map_or(0.0, |t| *t as f64 / 1e3);
        println!("{} of {} echoes came back, median {median:.3} ms", times.len(), args.count);
    }
    if times.is_empty() { Err(Failure::Silent(1)) } else { Ok(()) }
}

pub(super) fn trace(args: &TraceArgs, socket: &Path) -> Result<(), Failure> {
    let mut at = String::new();
    let mut steps = Vec::new();
    let mut rows = Vec::new();
    for hop in 1..=32 {
        let question = Request::TraceStep { at: at.clone(), target: args.node.clone() };
        let answer = ask(socket, &question)?;
        let Response::Step { ref next, ref next_name, arrived, metric, link_rtt_us, .. } = answer else {
            return Err(odd());
        };
        steps.push(answer.clone());
        let Some(next) = next else {
            println!("no route to {} from here on", args.node);
            return Err(Failure::Silent(1));
        };
        let left = if metric >= INFINITY { "-".to_owned() } else { format!("{:.2} ms", f64::from(metric) / 1e3) };
        rows.push(vec![hop.to_string(), next_name.clone(), format!("{:.2} ms", link_rtt_us as f64 / 1e3), left]);
        if arrived {
            break;
        }
        at.clone_from(next);
    }
    if args.json {
        return print_json(&steps);
    }
    print!("{}", table(&["HOP", "NODE", "LINK RTT", "METRIC LEFT"], &rows));
    Ok(())
}
