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
        let mut inside = all.iter().filter(|r| place(r, "chain") == at).peekable();
        let may_drop = chain["policy"] == "drop" || inside.peek().is_some();
        let has_ours = inside.any(|r| r["comment"] == COMMENT);
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
    }
}
