//! Reading the configuration again while the daemon runs: what can change without a restart does, and the rest is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde_json::Value;

use super::{announced, control::Control, gateway::Gateway};
use crate::{
    config::{Config, ExitNode},
    types::IpPrefix,
};

/// What a node carries: as an exit, for networks behind it, and whether with its own address.
type Carried = (Option<ExitNode>, Vec<IpPrefix>, bool);

/// Sections and keys that can change; whatever begins with one of these.
const LIVE: [&str; 20] = [
    "access",
    "exit",
    "exit_options",
    "exit_node",
    "routing.announce",
    "routing.masquerade",
    "routing.accept",
    "routing.cost",
    "routing.link_cost",
    "routing.relay_limit",
    "network.allow",
    "portal.policy",
    "portal.endpoint",
    "log.level",
    "dns.serve",
    "dns.suffix",
    "dns.split",
    "dns.services",
    "dns.host",
    "dns.resolv_conf",
];

/// What became of a new configuration: keys that changed, by whether they are in force.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    pub applied: Vec<String>,
    pub restart: Vec<String>,
}

impl Control {
    /// Reads the configuration file again. A file with an error leaves everything as it is; what the host refuses stays as it
    /// was, and is tried again by the next reload.
    pub fn reload(&mut self) -> Result<Reloaded, String> {
        let new = Config::load(&self.config.path).map_err(|e| e.to_string())?;
        let (applied, _) = sort(&changed(&self.config.text, &new.text));
        let (_, restart) = sort(&changed(&self.started_with, &new.text));
        let has = |section: &str| applied.iter().any(|key| is_in(key, section));
        let carries_other = ["exit_node", "routing.announce", "routing.masquerade"].into_iter().any(has);
        if carries_other {
            let old = self.carry((new.exit_node, new.announce, new.masquerade));
            if let Err(e) = self.start_gateway() {
                self.carry(old);
                self.start_gateway()
                    .map_err(|e| format!("cannot carry others' packets out of the mesh any more: {e}"))?;
                return Err(format!("cannot carry others' packets out of the mesh: {e}; all is as it was"));
            }
        }
        if ["exit", "exit_options", "routing.announce"].into_iter().any(has) {
            let networks = (self.config.behind(), self.config.near());
            self.tunnel.change(&new.exit, networks);
            if has("exit") {
                self.node.set_exit(self.clock.now(), new.exit.choice.clone());
            }
            self.config.exit = new.exit;
            self.follow_exit().map_err(|e| format!("cannot lead packets into the tunnel: {e}"))?;
        }
        if has("network.allow") {
            self.node.set_allowed(self.clock.now(), new.allow.clone());
            self.config.allow = new.allow;
        }
        if has("routing.cost") || has("routing.link_cost") {
            self.node.set_costs(new.cost, new.link_costs);
        }
        if has("routing.accept") {
            self.node.set_accepted(new.accept);
        }
        if has("routing.relay_limit") {
            self.shared.set_relay_limits(new.relay_limits);
        }
        if has("log.level") {
            (self.set_level)(&new.log_level);
        }
        if let (Some(portal), Some(new)) = (&mut self.config.portal, new.portal) {
            portal.policy = new.policy;
            portal.endpoint = new.endpoint;
        }
        if has("access") || has("portal.policy") {
            self.change_access(new.access);
        }
        if has("dns") || has("exit_node") {
            self.config.names = new.names;
            self.config.services = new.services;
            self.announce();
            self.serve_names();
        }
        self.config.text = new.text;
        Ok(Reloaded { applied, restart })
    }

    /// What this node carries for others from now on; returns what it was.
    fn carry(&mut self, new: Carried) -> Carried {
        let config = &mut self.config;
        (
            std::mem::replace(&mut config.exit_node, new.0),
            std::mem::replace(&mut config.announce, new.1),
            std::mem::replace(&mut config.masquerade, new.2),
        )
    }

    /// Sets the host up for what this node carries, and announces it.
    fn start_gateway(&mut self) -> io::Result<()> {
        self.gateway.stop()?;
        self.gateway = Gateway::start(&self.config, &self.keeper)?;
        self.announce();
        self.border.follow(&self.config);
        self.routes.set_own(&self.config.behind());
        self.routes.follow(&self.border, self.node.announced_prefixes());
        Ok(())
    }

    /// Tells others what this node carries and offers now.
    fn announce(&mut self) {
        let country = self.config.exit_node.as_ref().map(|e| e.country.clone()).unwrap_or_default();
        self.node.set_announced(announced(&self.config), country, self.config.services.clone());
    }

    /// The same because of a signal: what becomes of it is in the log.
    pub fn reload_and_log(&mut self) {
        match self.reload() {
            Ok(r) => tracing::info!(
                applied = r.applied.join(" "),
                needs_restart = r.restart.join(" "),
                "the configuration was read again"
            ),
            Err(error) => tracing::error!(error, "the configuration was not taken: the one before is in force"),
        }
    }
}

fn is_in(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn sort(keys: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    keys.iter().cloned().partition(|key| LIVE.iter().any(|section| is_in(key, section)))
}

/// The keys in which two configurations differ, like `exit_options.lan`.
fn changed(before: &str, after: &str) -> BTreeSet<String> {
    let (before, after) = (keys(before), keys(after));
    let all = before.keys().chain(after.keys());
    all.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

fn keys(text: &str) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    flatten("", serde_saphyr::from_str(text).unwrap_or_default(), &mut out);
    out
}

fn flatten(at: &str, value: Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                flatten(&if at.is_empty() { key } else { format!("{at}.{key}") }, value, out);
            }
        }
        other => {
            out.insert(at.to_owned(), other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named_and_sorted() {
        let before = "name: a\nmesh:\n  mtu: 1400\nexit: off\ndns: { suffix: x, serve: true }\n";
        let after =
            "name: a\nmesh:\n  mtu: 1380\nexit: auto\nexit_options: { lan: false }\ndns: { serve: true, suffix: x }\n";
        let (applied, restart) = sort(&changed(before, after));
        assert_eq!(applied, ["exit", "exit_options.lan"]);
        assert_eq!(restart, ["mesh.mtu"]);
        assert!(changed(before, before).is_empty());
    }
}
