//! Signals between people: handed on to all who carry the platform, and to the page of whom they are for.

use std::collections::HashMap;

use prost::Message as _;

use super::{
    engine::{Engine, Event, Refusal},
    hub::Hub,
    links::LinkId,
    store::Result,
};
use crate::chat::{
    Id, LIFE_MS, Signal, sealed,
    wire::{self, frame::What, whispered},
};

/// Bytes of what pages tell each other.
const MAX_DATA: usize = 16 << 10;
/// Devices whose signals are recognized when they come again, and how many of each.
const MAX_DEVICES: usize = 1024;
const MAX_OF_DEVICE: usize = 256;

/// Signals of the last minutes by the device that sent them, and when they came.
#[derive(Default)]
pub struct Seen(HashMap<Id, HashMap<Id, u64>>);

impl Seen {
    /// Whether this one is new, and not one too many: what is not remembered would go round in circles.
    fn take(&mut self, now_ms: u64, signal: &Signal) -> bool {
        let forget = |of: &mut HashMap<Id, u64>| of.retain(|_, at| now_ms.saturating_sub(*at) <= 2 * LIFE_MS);
        if self.0.len() >= MAX_DEVICES {
            self.0.values_mut().for_each(forget);
            self.0.retain(|_, of| !of.is_empty());
        }
        if self.0.len() >= MAX_DEVICES && !self.0.contains_key(&signal.device) {
            return false;
        }
        let of = self.0.entry(signal.device).or_default();
        if of.len() >= MAX_OF_DEVICE {
            forget(of);
        }
        of.len() < MAX_OF_DEVICE && of.insert(signal.id, now_ms).is_none()
    }
}

impl Hub {
    /// Tells another person's pages something, at once or never.
    pub(super) fn signal(
        &mut self,
        now_ms: u64,
        (platform, who): (Id, Id),
        data: String,
    ) -> std::result::Result<(), Refusal> {
        if data.len() > MAX_DATA {
            return Err(Refusal::no(format!("expected at most {MAX_DATA} bytes")));
        }
        let payload = self.engine.seal_for(platform, who, whispered::What::Signal(data))?;
        let raw = self.engine.keys.unlocked()?.signal(platform, now_ms, payload);
        let signal = Signal::decode(raw).map_err(|e| Refusal::no(e.to_string()))?;
        self.seen.take(now_ms, &signal);
        self.hand_on(&signal, None);
        Ok(())
    }

    /// A signal has come.
    pub(super) fn take_signal(&mut self, now_ms: u64, from: LinkId, raw: wire::Signal) -> Result<()> {
        let size = raw.payload.len();
        let Ok(signal) = Signal::decode(raw) else { return Ok(()) };
        let admitted = self.gate.as_mut().is_none_or(|gate| gate.admit(now_ms, from, size, false).is_some());
        if !admitted || !signal.is_alive(now_ms) || !self.engine.may_signal(&signal) || signal.verify().is_err() {
            return Ok(());
        }
        if self.seen.take(now_ms, &signal) {
            self.hand_on(&signal, Some(from));
            self.engine.hear_signal(&signal)?;
        }
        Ok(())
    }

    fn hand_on(&mut self, signal: &Signal, from: Option<LinkId>) {
        let wants = |(id, link): &(&LinkId, &super::links::Link)| {
            link.greeted && Some(**id) != from && link.carries(&signal.platform, false)
        };
        let to: Vec<LinkId> = self.links.all.iter().filter(wants).map(|(id, _)| *id).collect();
        for link in to {
            self.links.send(link, What::Signal(signal.to_wire()));
        }
    }
}

impl Engine {
    /// Whether its author takes part in a platform that is here.
    fn may_signal(&self, signal: &Signal) -> bool {
        let Some(platform) = self.platforms.get(&signal.platform) else { return false };
        let author = platform.authority.identity(signal.device);
        author.is_some_and(|who| platform.authority.admits(who) && !platform.authority.now(who).banned)
    }

    fn hear_signal(&mut self, signal: &Signal) -> Result<()> {
        let Some(platform) = self.platforms.get(&signal.platform).filter(|p| p.place.joined) else { return Ok(()) };
        let (Some(device), Some(from)) = (self.keys.device(), platform.authority.identity(signal.device)) else {
            return Ok(());
        };
        let privates: Vec<[u8; 32]> = self.store.prekeys()?.iter().map(|k| k.private).collect();
        let heard = sealed::hear(&privates, &device, &signal.platform, &signal.device, &signal.payload);
        let whispered = heard.and_then(|plain| wire::Whispered::decode(&*plain).ok());
        // Who is shadow-banned talks to nobody.
        let is_silenced = platform.authority.is_silenced(from);
        if let Some(wire::Whispered { what: Some(whispered::What::Signal(data)) }) = whispered.filter(|_| !is_silenced)
        {
            self.events.push(Event::Signal { platform: signal.platform, from, data });
        }
        Ok(())
    }
}
