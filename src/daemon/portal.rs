//! The portal, as the daemon sees it: what new clients are told.

use super::control::Control;
use crate::{
    config::{Portal, SegmentPolicy},
    portal::{Offer, own_address},
    types::IpPrefix,
};

impl Control {
    /// Lets in a WireGuard client; returns its configuration, and what it may do.
    pub fn add_client(&mut self, name: &str) -> Result<(String, String), String> {
        let good =
            (1..=63).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !good {
            return Err(format!("expected 1 to 63 letters, digits, `-`, `.` or `_` as the name, got `{name}`"));
        }
        let (config, portal) = self.portal()?;
        let offer = self.offer(config)?;
        let text = portal.add(name, &offer)?;
        let may = match config.policy {
            SegmentPolicy::Strict => {
                "only what access rules allow to `portal` or `portal:NAME` (portal.policy: strict)"
            }
            SegmentPolicy::InternetOnly => "reach the internet, and of the mesh what access rules allow",
            SegmentPolicy::LocalOnly => "reach the mesh, and of the internet what access rules allow",
        };
        let note = format!("{name} may {}. Its private key is kept nowhere but above.", may.replace("NAME", name));
        self.members_changed = true;
        Ok((text, note))
    }

    pub fn remove_client(&mut self, name: &str) -> Result<(), String> {
        self.portal()?.1.remove(name)?;
        self.members_changed = true;
        Ok(())
    }

    pub fn portal(&self) -> Result<(&Portal, &crate::portal::Portal), String> {
        let both = self.config.portal.as_ref().zip(self.portal.as_deref());
        both.ok_or_else(|| "this node has no portal: set `portal.enabled: true` and restart it".to_owned())
    }

    fn offer(&self, portal: &Portal) -> Result<Offer, String> {
        let own = portal.networks.map(own_address);
        let names = self
            .config
            .names
            .as_ref()
            .map(|names| own.iter().map(ToString::to_string).chain([names.suffix.clone()]).collect());
        let (cidr, ula) = (self.node.network().cidr(), self.node.network().ula());
        let goes_out = self.config.exit_node.is_some() || !self.node.exit_choice().is_off();
        let everything = goes_out && portal.policy != SegmentPolicy::LocalOnly;
        let mut allowed: Vec<IpPrefix> = if everything {
            [IpPrefix::new([0, 0, 0, 0].into(), 0), IpPrefix::new([0u16; 8].into(), 0)].into_iter().flatten().collect()
        } else {
            let networks = portal.networks.into_iter().chain([cidr, ula]).chain(self.config.announce.iter().copied());
            networks.chain(self.node.announced_prefixes()).collect()
        };
        allowed.sort_unstable();
        allowed.dedup();
        Ok(Offer {
            endpoint: self.portal_endpoint(portal)?,
            dns: names.unwrap_or_default(),
            mtu: self.config.mtu,
            allowed,
        })
    }

    /// Where clients find the portal: what the configuration says, or an address under which others see this node.
    fn portal_endpoint(&self, portal: &Portal) -> Result<String, String> {
        if let Some(endpoint) = &portal.endpoint {
            return Ok(endpoint.clone());
        }
        let seen = self.node.status().endpoints;
        let place = seen.iter().find(|e| e.is_ipv4()).or(seen.first());
        let place = place.map(|e| std::net::SocketAddr::new(e.ip(), portal.port).to_string());
        place.ok_or_else(|| "this node knows no address of its own: set portal.endpoint".to_owned())
    }
}
