//! What is checked: no forwarding loop at any instant, every route in the end, and how good the routes are.

use std::collections::{BTreeMap, BinaryHeap};

use super::world::World;
use crate::types::NodeId;

/// The mesh as a graph, once it stands.
pub(super) struct Graph {
    pub links_per_node: f64,
    pub longest_path: usize,
    pub stretch: f64,
}

enum Walk {
    Arrives(usize),
    NoRoute,
    Loop,
}

impl World {
    pub(super) fn next(&self, at: usize, target: &NodeId) -> Option<usize> {
        let node = self.places[at].node.as_ref()?;
        let next = node.routing().next_hop(node.routing().origin(target)?)?;
        let there = *self.by_id.get(&next)?;
        // A packet for an earlier start of the neighbour is dropped there.
        let index = node.index_towards(&next)?;
        self.places[there].node.as_ref()?.takes_in(index).then_some(there)
    }

    fn walk(&self, from: usize, to: usize) -> Walk {
        let target = self.places[to].id;
        let (mut at, mut steps) = (from, 0);
        while at != to {
            let Some(next) = self.next(at, &target) else { return Walk::NoRoute };
            at = next;
            steps += 1;
            // What hostile nodes do with a packet is their affair: they may send it in circles.
            if self.is_hostile(at) && at != to {
                return Walk::Arrives(steps);
            }
            if steps > self.places.len() {
                return Walk::Loop;
            }
        }
        Walk::Arrives(steps)
    }

    /// A node's tables changed: follow the next hops from it to the watched destinations.
    pub(super) fn watch(&mut self, i: usize) {
        if self.is_hostile(i) {
            return;
        }
        for k in 0..self.watched.len() {
            let target = self.watched[k];
            if target != i && matches!(self.walk(i, target), Walk::Loop) {
                self.loops += 1;
                self.problem(format!("loop from n{i} to n{target} at {:?}", self.now()));
            }
        }
    }

    pub(super) fn problem(&mut self, what: String) {
        if self.problems.len() < 20 {
            self.problems.push(what);
        }
    }

    /// Whether every living node has a route to every other and it arrives. The cheap question comes first.
    pub(super) fn is_complete(&self) -> bool {
        let alive: Vec<usize> = (0..self.places.len()).filter(|i| self.places[*i].node.is_some()).collect();
        let counts = alive
            .iter()
            .all(|i| self.places[*i].node.as_ref().is_some_and(|n| n.routing().reachable() + 1 >= alive.len()));
        counts && alive.iter().all(|a| alive.iter().all(|b| matches!(self.walk(*a, *b), Walk::Arrives(_))))
    }

    pub(super) fn explain_incomplete(&mut self) {
        let alive: Vec<usize> = (0..self.places.len()).filter(|i| self.places[*i].node.is_some()).collect();
        let mut missing = 0u64;
        for a in &alive {
            for b in &alive {
                if !matches!(self.walk(*a, *b), Walk::Arrives(_)) {
                    missing += 1;
                    if missing <= 5 {
                        self.problem(format!("no route from n{a} to n{b}"));
                    }
                }
            }
        }
        self.problem(format!("{missing} pairs without a route"));
    }

    /// Looks at the links and compares routes with the shortest paths over them (Dijkstra).
    pub(super) fn graph(&self) -> Graph {
        let mut links: BTreeMap<usize, Vec<(usize, u64)>> = BTreeMap::new();
        for (i, place) in self.places.iter().enumerate() {
            let Some(node) = &place.node else { continue };
            for (peer, cost) in node.link_costs() {
                if let Some(j) = self.by_id.get(&peer) {
                    links.entry(i).or_default().push((*j, u64::from(cost)));
                }
            }
        }
        let total: usize = links.values().map(Vec::len).sum();
        let (mut longest, mut ratio, mut pairs) = (0, 0.0, 0u64);
        for from in (0..self.places.len()).step_by((self.places.len() / 32).max(1)) {
            let shortest = dijkstra(&links, from);
            let Some(routing) = self.places[from].node.as_ref().map(crate::node::Node::routing) else { continue };
            for (to, best) in &shortest {
                let route = routing.origin(&self.places[*to].id).and_then(|o| routing.route(o));
                if let (Some(route), true) = (route, *best > 0) {
                    ratio += f64::from(route.metric) / *best as f64;
                    pairs += 1;
                }
                if let Walk::Arrives(steps) = self.walk(from, *to) {
                    longest = longest.max(steps);
                }
            }
        }
        Graph {
            links_per_node: total as f64 / self.places.len() as f64,
            longest_path: longest,
            stretch: if pairs > 0 { ratio / pairs as f64 } else { 0.0 },
        }
    }
}

fn dijkstra(links: &BTreeMap<usize, Vec<(usize, u64)>>, from: usize) -> BTreeMap<usize, u64> {
    let mut done = BTreeMap::new();
    let mut heap = BinaryHeap::from([(std::cmp::Reverse(0u64), from)]);
    while let Some((std::cmp::Reverse(distance), at)) = heap.pop() {
        if done.contains_key(&at) {
            continue;
        }
        done.insert(at, distance);
        for (next, cost) in links.get(&at).into_iter().flatten() {
            heap.push((std::cmp::Reverse(distance + cost), *next));
        }
    }
    done
}
