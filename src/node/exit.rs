//! The exit: the node through which this one reaches what is outside the mesh. Nodes offer themselves by announcing
//! `0.0.0.0/0` or `::/0`; an offer is nothing to anybody who has not chosen it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    Node,
    proof::{PROVEN, RETURNED, UNKNOWN},
};
use crate::{
    identity::Verified,
    types::{ExitChoice, Instant, IpPrefix, Metric, NodeId, Service},
};

/// An exit in use is left for one that is so much nearer, in metric units (µs), and at least twice as near: who changes
/// the exit breaks every connection through it.
const MUCH_NEARER: Metric = 20_000;

/// What is chosen, and what it comes to.
#[derive(Debug)]
pub(super) struct Exit {
    pub choice: ExitChoice,
    pub current: Option<(NodeId, Instant)>,
}

/// An exit on offer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExitOffer {
    pub node_id: String,
    pub name: String,
    /// ISO 3166-1 alpha-2, or empty: what the node says.
    pub country: String,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Microseconds.
    pub metric: Metric,
    pub in_use: bool,
    /// It was asked end to end, and does not answer: the way there leads nowhere, whatever routing says.
    #[serde(default)]
    pub silent: bool,
}

/// An exit that fits the choice: the less, the better.
type Fitting = (u8, Metric, NodeId);

impl Node {
    /// Goes through another exit, or none, from now on.
    pub fn set_exit(&mut self, now: Instant, choice: ExitChoice) {
        self.exit = Exit { choice, current: None };
        self.tables_dirty = true;
        self.choose_exit(now);
    }

    /// Announces other prefixes beside its addresses from now on, another country of its exit, and other services.
    pub fn set_announced(&mut self, prefixes: Vec<IpPrefix>, country: String, services: Vec<Service>) {
        self.own.set_offer(prefixes, country, services);
    }

    /// Tells others whether this host has no IPv6.
    pub fn set_ipv4_only(&mut self, ipv4_only: bool) {
        self.own.set_ipv4_only(ipv4_only);
    }

    /// Adds these costs, in µs, to links from now on: to all, and to those to certain nodes.
    pub fn set_costs(&mut self, all: Metric, some: HashMap<NodeId, Metric>) {
        self.config.cost = all;
        self.config.link_costs = some;
    }

    /// Lets in these nodes only, or all that meet the other rules.
    pub fn set_allowed(&mut self, now: Instant, allow: Option<HashSet<NodeId>>) {
        self.policy.allow = allow;
        self.door.judge(&self.policy, &self.invitations);
        self.routing.ask_all_again(now);
    }

    #[must_use]
    pub fn exit_choice(&self) -> &ExitChoice {
        &self.exit.choice
    }

    /// The exit in use.
    #[must_use]
    pub fn exit(&self) -> Option<NodeId> {
        self.exit.current.map(|(id, _)| id)
    }

    /// How long the exit has been in use.
    #[must_use]
    pub fn exit_since(&self) -> Option<Instant> {
        self.exit.current.map(|(_, since)| since)
    }

    /// The exits that can be reached, the nearest first.
    #[must_use]
    pub fn exit_offers(&self, now: Instant) -> Vec<ExitOffer> {
        let mut all: Vec<ExitOffer> = self
            .reachable_exits()
            .map(|(metric, known)| ExitOffer {
                node_id: known.id.to_string(),
                name: self.book.display(&known.id),
                country: known.record.country.clone(),
                ipv4: self.book.carries_out(&known.id, true),
                ipv6: self.book.carries_out(&known.id, false),
                metric,
                in_use: self.exit() == Some(known.id),
                silent: self.proofs.rank(now, &known.id) > RETURNED,
            })
            .collect();
        all.sort_by(|a, b| (a.metric, &a.node_id).cmp(&(b.metric, &b.node_id)));
        all
    }

    fn reachable_exits(&self) -> impl Iterator<Item = (Metric, &Verified)> {
        self.book.exits().filter_map(|id| {
            let o = self.routing.origin(id)?;
            let route = self.routing.route(o)?;
            Some((route.metric, &**self.routing.announcement(o)?))
        })
    }

    /// The exits that fit the choice, the best first.
    fn fitting_exits(&self, now: Instant) -> Vec<Fitting> {
        // Two of one name: one of them may be somebody who would like to be the other.
        let named = match &self.exit.choice {
            ExitChoice::Node(who) => self.book.find(who).ok(),
            _ => None,
        };
        let fits = |known: &Verified| match &self.exit.choice {
            ExitChoice::Off => false,
            ExitChoice::Auto => true,
            ExitChoice::Country(code) => known.record.country == *code,
            ExitChoice::Node(_) => named == Some(known.id),
        };
        let there = self.reachable_exits().filter(|(_, known)| fits(known));
        let mut fitting: Vec<_> =
            there.map(|(metric, known)| (self.proofs.rank(now, &known.id), metric, known.id)).collect();
        fitting.sort_unstable();
        fitting
    }

    /// The exits among which this node chooses, the best first; none where there is nothing to choose.
    pub(super) fn alternative_exits(&self, now: Instant) -> Vec<NodeId> {
        let fitting = if matches!(self.exit.choice, ExitChoice::Off) { Vec::new() } else { self.fitting_exits(now) };
        if fitting.len() < 2 { Vec::new() } else { fitting.into_iter().map(|(.., id)| id).collect() }
    }

    /// Looks whether the exit in use is there still, and whether another one would be better.
    pub(super) fn choose_exit(&mut self, now: Instant) {
        if self.exit.choice.is_off() {
            return;
        }
        let fitting = self.fitting_exits(now);
        let in_use = self.exit().and_then(|id| fitting.iter().find(|(.., other)| *other == id)).copied();
        let best = match (fitting.first().copied(), in_use) {
            (Some(best), Some(used)) if is_better(best, used) => Some(best),
            (best, used) => used.or(best),
        };
        let best = best.map(|(.., id)| id);
        if best != self.exit() {
            self.exit.current = best.map(|id| (id, now));
            self.tables_dirty = true;
        }
    }

    /// Whether this is outside the mesh, so that it is an exit's to carry.
    pub(super) fn is_outside(&self, ip: IpAddr) -> bool {
        !self.network.cidr().contains(ip) && !self.network.ula().contains(ip)
    }

    /// The exit in use, if it carries packets to and from this address.
    pub(super) fn exit_for(&self, ip: IpAddr) -> Option<NodeId> {
        let id = self.exit().filter(|_| self.is_outside(ip))?;
        self.book.carries_out(&id, ip.is_ipv4()).then_some(id)
    }
}

/// Whether the exit in use is left for this one. A metric alone is hearsay: who works is left only for somebody who has answered.
fn is_better((rank, metric, _): Fitting, (used_rank, used, _): Fitting) -> bool {
    if used_rank > UNKNOWN { rank < used_rank } else { rank == PROVEN && is_much_nearer(metric, used) }
}

fn is_much_nearer(new: Metric, used: Metric) -> bool {
    new.saturating_add(MUCH_NEARER) < used && new.saturating_mul(2) < used
}
