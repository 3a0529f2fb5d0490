//! Rules of ours in others' chains. A chain of somebody else's that drops what it doesn't know drops our packets too, whatever our own
//! tables say: it gets two rules of ours on top, in a form that iptables can read, and stays as it is otherwise.

use std::{fmt::Write as _, io};

use serde_json::Value;

use crate::host::firewall;

/// Marks them.
const COMMENT: &str = "aegisray";

/// Puts them where they are missing.
pub(super) fn invite(interfaces: &[String]) -> io::Result<()> {
    let add = let_through(&firewall::rules()?, interfaces);
    if add.is_empty() { Ok(()) } else { firewall::load(&add) }
}

/// The commands that put rules of ours on top of others' chains, where there are none yet.
fn let_through(rules: &Value, interfaces: &[String]) -> String {
    let items = || rules["nftables"].as_array().into_iter().flatten();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let place = |value: &Value, chain: &str| (text(value, "family"), text(value, "table"), text(value, chain));
    let all: Vec<&Value> = items().map(|i| &i["rule"]).filter(|r| r.is_object()).collect();
    let mut out = String::new();
    for chain in items().map(|i| &i["chain"]).filter(|c| c["hook"] == "forward" && c["type"] == "filter") {
        let at = place(chain, "name");
        let is_ours = at.1.starts_with("aegisray");
        let inside: Vec<&Value> = all.iter().copied().filter(|r| place(r, "chain") == at).collect();
        let may_drop = chain["policy"] == "drop" || !inside.is_empty();
        // Who saves the rules of iptables and restores them keeps ours, without the mark.
        let on_top =
            || inside.iter().map_while(|r| lets_through(r)).filter(|i| interfaces.iter().any(|name| name == i)).count();
        let has_ours = inside.iter().any(|r| r["comment"] == COMMENT) || on_top() >= 2 * interfaces.len();
        if is_ours || !may_drop || has_ours || !["ip", "ip6", "inet"].contains(&&*at.0) {
            continue;
        }
        let chain = format!("insert rule {} {} {}", at.0, at.1, at.2);
        for i in interfaces {
            // Our own table, which comes before, has let through what may go there. In a form that iptables can read.
            let _ = writeln!(out, "{chain} oifname \"{i}\" accept comment \"{COMMENT}\"");
            let _ = writeln!(out, "{chain} iifname \"{i}\" accept comment \"{COMMENT}\"");
        }
    }
    out
}

/// The interface whose packets a rule lets through, in one direction, whatever else they are.
fn lets_through(rule: &Value) -> Option<&str> {
    let is_step = |step: &&Value| step["counter"].is_null() && step["xt"]["name"] != "comment";
    let mut steps = rule["expr"].as_array()?.iter().filter(is_step);
    let (which, verdict) = (&steps.next()?["match"], steps.next()?);
    let by_name = ["iifname", "oifname"].iter().any(|key| which["left"]["meta"]["key"] == *key) && which["op"] == "==";
    let accepts = verdict.as_object()?.contains_key("accept") && steps.next().is_none();
    which["right"].as_str().filter(|_| by_name && accepts)
}

/// Takes our rules out of others' tables.
pub(super) fn remove() -> io::Result<()> {
    let rules = firewall::rules()?;
    let ours = rules["nftables"].as_array().into_iter().flatten().map(|item| &item["rule"]);
    let ours = ours.filter(|rule| rule["comment"] == COMMENT);
    let delete = ours.map(|rule| {
        let part = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        format!("delete rule {} {} {} handle {}\n", part("family"), part("table"), part("chain"), rule["handle"])
    });
    firewall::load(&delete.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn others_chains_get_one_pair_of_rules_on_top_and_only_where_they_may_drop() {
        let chain = |table: &str, policy: &str| json!({"chain": {"family": "ip", "table": table, "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}});
        let rule = |table: &str, comment: &str| json!({"rule": {"family": "ip", "table": table, "chain": "FORWARD", "handle": 7, "comment": comment, "expr": []}});
        let rules = json!({"nftables": [
            chain("filter", "drop"), chain("empty", "accept"), chain("ufw", "accept"), rule("ufw", ""),
            chain("seen", "drop"), rule("seen", COMMENT), chain("aegisray_exit", "accept"), rule("aegisray_exit", ""),
        ]});
        let add = let_through(&rules, &["aegis0".to_owned()]);
        assert_eq!(add.lines().count(), 4, "{add}");
        assert!(add.starts_with("insert rule ip filter FORWARD oifname \"aegis0\""));
        assert!(add.contains("insert rule ip ufw FORWARD iifname \"aegis0\" accept comment \"aegisray\"\n"));
        assert_eq!(let_through(&json!({"nftables": []}), &["aegis0".to_owned()]), "");
        // What iptables-restore makes of them.
        let restored = |key: &str| {
            json!({"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 7, "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": "aegis0"}},
                {"xt": {"type": "match", "name": "comment"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null},
            ]}})
        };
        let rules = |all: &[Value]| {
            let all = [&[chain("filter", "drop")], all].concat();
            json!({ "nftables": all })
        };
        let (both, other) = ([restored("oifname"), restored("iifname")], rule("filter", ""));
        assert_eq!(let_through(&rules(&both), &["aegis0".to_owned()]), "");
        let below = [&[other], &both[..]].concat();
        for all in [&both[..1], &below] {
            assert_eq!(let_through(&rules(all), &["aegis0".to_owned()]).lines().count(), 2, "not both on top");
        }
    }
}
