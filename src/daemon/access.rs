//! Access rules in force: a table of the host's firewall that follows who is in the mesh.

use std::{io, sync::Arc};

use super::{
    control::Control,
    keeper::{self, Keeper},
};
use crate::{
    access::{Because, Facts, Member, Policy, Protocol},
    api::AccessAnswer,
    config::{self, Access, Config, PORTAL},
    host,
    node::Node,
    portal::Portal,
};

const TABLE: &str = "aegisray_access";

pub(super) struct AccessRules {
    access: Access,
    keeper: Arc<Keeper>,
    /// What is wanted in the table; empty: there is to be none.
    table: String,
}

impl AccessRules {
    /// Puts the rules in force, before anything comes in. What a daemon that crashed has left is replaced.
    pub fn start(config: &Config, facts: &Facts, keeper: &Arc<Keeper>) -> io::Result<Self> {
        let mut rules = Self { access: config.access.clone(), keeper: Arc::clone(keeper), table: String::new() };
        let policy = rules.policy(facts);
        rules.table = table(&policy);
        if rules.table.is_empty() {
            keeper.clear_table(TABLE);
            return Ok(rules);
        }
        match keeper.put_table(TABLE, rules.table.clone()) {
            // Somebody else's invitation is no reason not to start; it is tried again.
            Err(error) if policy.is_about_guests() => tracing::error!(%error, "guests are members like any other here"),
            other => other?,
        }
        Ok(rules)
    }

    pub fn policy(&self, facts: &Facts) -> Policy {
        Policy::new(&self.access, facts)
    }

    /// To be called when members, clients or the configuration have changed. Loading takes its time elsewhere; what can't be loaded
    /// is tried again, and until then the one before is in force.
    pub fn follow(&mut self, facts: &Facts) {
        let table = table(&self.policy(facts));
        if table != self.table {
            self.keeper.want_table(TABLE, table.clone());
            self.table = table;
        }
    }

    /// Other rules from the configuration.
    pub fn change(&mut self, access: Access) {
        self.access = access;
    }

    /// Takes the table away.
    pub fn stop(&mut self) -> io::Result<()> {
        self.table.clear();
        self.keeper.remove_table(TABLE)
    }
}

fn table(policy: &Policy) -> String {
    if policy.is_open() { String::new() } else { policy.table() }
}

/// Takes away what a daemon that no longer runs has left.
pub(super) fn clean_up(interface: &str) -> io::Result<()> {
    keeper::remove_table(TABLE, interface)
}

/// The members, with what is theirs.
fn members(node: &Node) -> Vec<Member> {
    let owners = node.owners();
    let all = node.routing().announcements().map(|known| {
        let certificate = known.record.certificate.as_ref();
        let name = certificate.map(|c| c.name.clone()).unwrap_or_default();
        Member {
            id: known.id,
            owns_name: owners.name_owner(&name) == Some(known.id),
            name,
            groups: certificate.map(|c| c.groups.clone()).unwrap_or_default(),
            // Not what it claims: another node may have it, and be judged for it.
            addresses: owners.addresses_of(&known.id).collect(),
        }
    });
    all.collect()
}

/// What the rules are about.
pub(super) fn facts(config: &Config, node: &Node, portal: Option<&Portal>) -> Facts {
    let clients = portal.map(Portal::list).unwrap_or_default();
    let portal = config.portal.as_ref().map(|p| p.interface.clone());
    Facts {
        ranges: vec![config.network.cidr(), config.network.ula()],
        here: host::interface_addresses().unwrap_or_default().into_iter().map(|(_, ip)| ip).collect(),
        members: members(node),
        clients: clients.into_iter().map(|c| (c.name, c.addresses.to_vec())).collect(),
        interfaces: std::iter::once(config.interface.clone()).chain(portal).collect(),
    }
}

impl Control {
    pub fn access_facts(&self) -> Facts {
        facts(&self.config, &self.node, self.portal.as_deref())
    }

    /// Other rules in force, but for the portal's networks, which are what they are until a restart.
    pub fn change_access(&mut self, mut access: Access) {
        access.segments.retain(|s| s.name != PORTAL);
        access.segments.extend(self.config.portal.as_ref().map(config::Portal::segment));
        self.config.access = access.clone();
        self.access.change(access);
        let facts = self.access_facts();
        self.access.follow(&facts);
    }

    /// What becomes of a connection from `source` to `target`, and why.
    pub fn test_access(&self, source: &str, target: &str, protocol: Protocol) -> Result<AccessAnswer, String> {
        let facts = self.access_facts();
        let policy = self.access.policy(&facts);
        let to = match target {
            "self" => self.node.addresses().to_vec(),
            _ => self.addresses_of(target, &facts)?,
        };
        let sources = self.addresses_of(source, &facts)?;
        let both = to.iter().find_map(|to| Some((*to, *sources.iter().find(|s| s.is_ipv4() == to.is_ipv4())?)));
        let (to, source_ip) = both.ok_or("source and target have no address of one family")?;
        let decision = policy.decide(source_ip, to, protocol);
        let reason = match &decision.because {
            Because::Rule(n) => {
                let rule = &self.config.access.rules[*n];
                let file = self.config.path.display();
                format!("rule {} ({file}:{}): {rule}", n + 1, rule.line)
            }
            Because::Names => "clients of the portal may ask this node for names".to_owned(),
            Because::Segment(name, policy) => {
                format!("no rule speaks of it; the segment `{name}` has the policy {policy}")
            }
            Because::Guest => "no rule speaks of it, and guests may do nothing else".to_owned(),
            Because::Default if decision.allowed => "no rule speaks of it; access.default is allow".to_owned(),
            Because::Default => "no rule speaks of it; access.default is deny".to_owned(),
        };
        let is_here = facts.here.contains(&to);
        let owner = self.node.owner_of(to).filter(|id| !is_here && *id != self.node.id());
        let is_client = facts.clients.iter().any(|(_, ips)| ips.contains(&source_ip));
        let note = owner.map(|id| {
            let name = self.name_of(&id);
            if is_client {
                format!("{name} has rules of its own: ask there too")
            } else {
                format!("it is {name} that decides about this, not this node: ask there")
            }
        });
        Ok(AccessAnswer {
            allowed: decision.allowed,
            source: source_ip,
            target: to,
            protocol: protocol.to_string(),
            reason,
            note: note.unwrap_or_default(),
        })
    }

    /// Addresses of a node, a client of the portal, or one given as it is.
    fn addresses_of(&self, who: &str, facts: &Facts) -> Result<Vec<std::net::IpAddr>, String> {
        if let Ok(ip) = who.parse() {
            return Ok(vec![ip]);
        }
        if let Some(client) = who.strip_prefix("portal:") {
            let found = facts.clients.iter().find(|(name, _)| name == client);
            return found
                .map(|(_, ips)| ips.clone())
                .ok_or_else(|| format!("the portal has no client `{client}`; `aegisray portal list` lists them"));
        }
        let id = self.find(who)?;
        if id == self.node.id() {
            return Ok(self.node.addresses().to_vec());
        }
        let member = facts.members.iter().find(|m| m.id == id);
        let member = member.ok_or_else(|| format!("nothing is known of {who} yet"))?;
        let nothing = || format!("{who} owns no address: others claim the same (`aegisray routes`)");
        if member.addresses.is_empty() { Err(nothing()) } else { Ok(member.addresses.clone()) }
    }

    /// The rules in their order, with how much each one's `who` comes to.
    pub fn list_access(&self) -> Vec<String> {
        let access = &self.config.access;
        let sizes = self.access.policy(&self.access_facts()).sizes();
        let mut out = Vec::new();
        for (n, (rule, size)) in access.rules.iter().zip(sizes).enumerate() {
            let size = size.map_or("anybody".to_owned(), |n| format!("{n} addresses or networks"));
            out.push(format!("{:>3}  {rule}  ({size})", n + 1));
        }
        for segment in &access.segments {
            let prefixes = segment.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            out.push(format!("     segment {} ({prefixes}): {}", segment.name, segment.policy));
        }
        out.push("     group guests: deny".to_owned());
        out.push(format!("     default: {}", if access.default_allow { "allow" } else { "deny" }));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::SigningKey,
        identity::{Authority, Certificate, Identity, Network, RecordContent},
        node::NodeConfig,
        types::{Instant, IpPrefix},
    };

    fn identity(seed: u8) -> Identity {
        Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap()
    }

    #[test]
    fn a_group_is_no_address_that_another_member_has() {
        let authority = Authority::new(identity(9));
        let cidr: IpPrefix = "100.64.0.0/16".parse().unwrap();
        let network = Network::new("n", Some("secret"), Some(authority.spki().to_vec()), cidr);
        let (admin, guest) = (identity(2), identity(3));
        let address = network.ipv4(&admin.id(), 0).into();
        let says = |who: &Identity, group: &str, addresses: Vec<std::net::IpAddr>| {
            let certificate = Certificate {
                node: who.id(),
                name: group.to_owned(),
                addresses,
                prefixes: vec![],
                groups: vec![group.to_owned()],
                not_before: 0,
                not_after: 5000,
                serial: [7; 16],
            };
            let certificate = authority.issue(&certificate);
            who.announce(&network, &RecordContent { certificate, ..Default::default() }, 5, 7200).unwrap()
        };
        let config = NodeConfig::new(network.clone(), RecordContent::default(), 1000);
        let mut node = Node::new(config, identity(1), Box::new(network.clone()), [7; 32], Instant(0)).unwrap();
        let own = |node: &Node, id| members(node).into_iter().find(|m| m.id == id).unwrap().addresses;
        // The admin sleeps: its announcement is all that is there of it.
        let asleep = says(&admin, "admins", vec![]);
        node.add_known(Instant(0), &asleep.bytes, &asleep.record.bytes);
        assert_eq!(own(&node, admin.id()), asleep.record.addresses);
        let awake = says(&guest, "guests", vec![address]);
        node.add_known(Instant(0), &awake.bytes, &awake.record.bytes);
        assert_eq!(node.owners().owns(address, &guest.id()), Some(true), "the authority says so");
        assert_eq!(own(&node, admin.id()), asleep.record.addresses[1..], "so it is no address of the admins");
        assert_eq!(own(&node, guest.id())[0], address);
    }
}
