//! What follows the mesh and this host's network while the daemon runs: names, access rules.

use std::time::Duration;

use super::{control::Control, names::NameService};
use crate::{
    host::{self, Netlink},
    portal::own_address,
};

/// After a change of the network: whoever finds its servers for names takes a moment.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

impl Control {
    /// Serves the names of the mesh at this node's addresses.
    pub fn serve_names(&mut self) {
        if let Err(error) = self.host_resolver.stop() {
            tracing::warn!(%error, "cannot put this host's resolver back as it was (dns.host)");
        }
        let before = self.names.take();
        let Some(names) = &self.config.names else { return };
        // The portal's clients ask it at its own addresses.
        let portal = self.config.portal.iter().flat_map(|p| p.networks.map(own_address));
        let own = self.addresses.into_iter().chain(portal).collect();
        match NameService::go_on(before, &self.config, names, own, &self.keeper) {
            Ok(service) => {
                service.begin(&self.node);
                self.names = Some(service);
                self.names_error = None;
                let interface = &self.config.interface;
                if let Err(error) = self.host_resolver.lead(&names.host, interface, self.addresses, &names.suffix) {
                    tracing::warn!(%error, "this host does not ask for the names of the mesh (dns.host)");
                }
            }
            Err(error) => {
                // It is tried again every second, and said once.
                let text = error.to_string();
                if self.names_error.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "the names of the mesh are not served (dns.serve)");
                    self.names_error = Some(text);
                }
            }
        }
    }

    /// Others have to know when this host begins or ceases to have IPv6: they would wait for answers in vain.
    pub fn follow_ipv6(&mut self) {
        let interface = &self.config.interface;
        let has_ipv6 = host::has_ipv6(interface);
        if has_ipv6 == self.has_ipv6 {
            return;
        }
        self.has_ipv6 = has_ipv6;
        if has_ipv6 {
            let (address, network) = (self.addresses[1], self.config.network.ula());
            let add = |mut netlink: Netlink| netlink.add_address(interface, address, network.prefix_len());
            if let Err(error) = Netlink::open().and_then(add) {
                tracing::error!(%error, %address, "cannot set the mesh address");
            }
        }
        tracing::info!(has_ipv6, "what this host has of IPv6 changed");
        self.node.set_ipv4_only(!has_ipv6);
    }

    /// What depends on who is in the mesh.
    pub fn follow_members(&mut self) {
        let changed = std::mem::take(&mut self.members_changed);
        if self.host_resolver.has_lost() {
            // Its other servers are asked from now on.
            self.keeper.note_restored("this host's resolver settings");
            self.serve_names();
        }
        let moved = self.names_due.is_some_and(|at| at.elapsed() > LOOK_AGAIN);
        if moved || (self.names.is_none() && self.config.names.is_some()) {
            self.names_due = None;
            self.serve_names();
        } else if let (true, Some(names)) = (changed, &self.names) {
            names.update(&self.node);
        }
        if changed {
            let facts = self.access_facts();
            self.access.follow(&facts);
            self.follow_chat();
        }
    }
}
