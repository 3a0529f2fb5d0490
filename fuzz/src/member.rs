//! A member gone bad, with real sessions and links, among two honest nodes: whatever it says, they stand.
#![no_main]

use std::time::Duration;

use aegisray::{node::forward::Tables as _, types::NodeTag};
use aegisray_fuzz::{
    cast::{self, ANNA, BERT, CAST, MALLORY},
    input::Input,
    mesh::Mesh,
    speech::{Signed, Speech},
};
use libfuzzer_sys::fuzz_target;

/// How long a step may be, in milliseconds.
const STEPS: [u64; 6] = [1, 20, 300, 1000, 5000, 40_000];

/// What the mesh knows of its honest nodes.
fn announcements(mesh: &Mesh) -> Vec<Signed> {
    let honest = mesh.nodes[MALLORY].routing().announcements().filter(|a| a.id != cast::id(MALLORY));
    honest.map(|a| (a.bytes.clone(), a.record.bytes.clone())).collect()
}

/// A relayed datagram as the hostile member's link seals it: to and from anybody, with anything in it.
fn hop(mesh: &mut Mesh, input: &mut Input<'_>) {
    let tag = |input: &mut Input<'_>| match input.below(CAST + 1) {
        who if who < CAST => cast::id(who).tag(),
        _ => NodeTag(input.wide()),
    };
    let (to, from, ttl) = (tag(input), tag(input), input.pick(&[32, 0, 1, 255]));
    let inner = match input.below(3) {
        0 => input.bytes(200),
        _ => mesh.heard[input.below(mesh.heard.len())].2.clone(),
    };
    let inner = input.mangle(inner);
    let Some((link, next)) = mesh.nodes[MALLORY].relay(cast::id(ANNA).tag()) else { return };
    let datagram = [&link.seal_hop(ttl, to, from)[..], &inner].concat();
    mesh.inject(cast::addr(MALLORY), next, datagram);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let with_authority = input.once_in(2);
    let mut mesh = Mesh::new(3, with_authority, !input.once_in(4));
    let heard = announcements(&mesh);
    while !input.is_over() && !mesh.is_over() {
        let now = mesh.now;
        let target = cast::id(input.pick(&[ANNA, ANNA, BERT]));
        let action = input.below(16);
        let mut speech = Speech { input: &mut input, with_authority, heard: &heard };
        match action {
            0..6 => {
                let message = speech.control();
                mesh.nodes[MALLORY].send_control_raw(now, target, message);
            }
            6..11 => {
                let plaintext = speech.plaintext();
                mesh.nodes[MALLORY].send_raw(now, target, plaintext);
            }
            11 => hop(&mut mesh, &mut input),
            12 => {
                // Somebody on the path repeats what it heard, from anywhere.
                let (from, to, bytes) = mesh.heard[input.below(mesh.heard.len())].clone();
                let from = if input.once_in(2) { cast::addr(input.below(CAST)) } else { from };
                let bytes = input.mangle(bytes);
                mesh.inject(from, to, bytes);
            }
            13 => {
                let packet = speech.packet();
                mesh.tun(ANNA, &packet);
            }
            _ => mesh.pass(Duration::from_millis(input.pick(&STEPS))),
        }
        mesh.carry();
    }
    mesh.pass(Duration::from_secs(1));
    mesh.check();
});
