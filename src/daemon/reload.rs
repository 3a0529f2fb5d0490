//! Reading the configuration again while the daemon runs: what can change without a restart does, and the rest is named.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{announced, control::Control, gateway::Gateway, routes::MeshRoutes};
use crate::config::Config;

/// Sections and keys that can change; whatever begins with one of these.
const LIVE: [&str; 7] =
    ["exit", "exit_options", "exit_node", "routing.announce", "routing.masquerade", "network.allow", "dns"];

/// What became of a new configuration: keys that changed, by whether they are in force.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    pub applied: Vec<String>,
    pub restart: Vec<String>,
}

impl Control {
    /// Reads the configuration file again. An error leaves everything as it is.
    pub fn reload(&mut self) -> Result<Reloaded, String> {
        let new = Config::load(&self.config.path).map_err(|e| e.to_string())?;
        let (applied, _) = sort(&changed(&self.config.text, &new.text));
        let (_, restart) = sort(&changed(&self.started_with, &new.text));
        let has = |section: &str| applied.iter().any(|key| is_in(key, section));
        let before = (self.config.exit_node.clone(), self.config.announce.clone(), self.config.masquerade);
        self.config.text = new.text;
        if has("network.allow") {
            self.node.set_allowed(new.allow.clone());
            self.config.allow = new.allow;
        }
        if has("dns") {
            self.config.names = new.names;
            self.config.name_servers = new.name_servers;
            self.serve_names();
        }
        if ["exit_node", "routing.announce", "routing.masquerade"].iter().any(|s| has(s)) {
            (self.config.exit_node, self.config.announce) = (new.exit_node, new.announce);
            self.config.masquerade = new.masquerade;
            if let Err(e) = self.gateway.stop().and_then(|()| Gateway::start(&self.config).map(|g| self.gateway = g)) {
                // What it was before, it can be again.
                (self.config.exit_node, self.config.announce, self.config.masquerade) = before;
                if let Ok(gateway) = Gateway::start(&self.config) {
                    self.gateway = gateway;
                }
                return Err(format!("cannot carry others' packets out of the mesh: {e}; that is as it was"));
            }
            let country = self.config.exit_node.as_ref().map(|e| e.country.clone()).unwrap_or_default();
            self.node.set_announced(announced(&self.config), country);
            self.routes.follow(Vec::new());
            self.routes = MeshRoutes::new(&self.config.interface, &self.config.announce);
            self.routes.follow(self.node.announced_prefixes());
        }
        if has("exit") || has("exit_options") {
            self.tunnel.change(&new.exit).map_err(|e| format!("cannot change the tunnel: {e}"))?;
            if has("exit") {
                self.node.set_exit(self.clock.now(), new.exit.choice.clone());
            }
            self.config.exit = new.exit;
            self.follow_exit().map_err(|e| format!("cannot lead packets into the tunnel: {e}"))?;
        }
        Ok(Reloaded { applied, restart })
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
