//! The mesh is no reflector: datagrams to an address that never answered are few.

use std::time::{Duration, Instant};

use aegisray::{identity::RecordContent, lab::topology::Internet, wire};

use super::{
    capture::Recorder,
    craft::{forge, offer},
    harness::{Dir, need, node},
    hostile::{Hostile, id_of, identity, network_of, unix},
    world::{place, plain, public, v4},
};

/// A member has identities whose endpoints are all at a host that has nothing to do with the mesh, ever others.
pub fn endpoints() -> String {
    const TIME: Duration = Duration::from_secs(10);
    // Of each identity five changes are taken in, four addresses of each tried three times, two datagrams each time.
    const ALLOWED: usize = 4 * 5 * 4 * 3 * 2 + 120;
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [node_host, mallory_host, victim_host] = [2, 3, 4].map(|n| public(&mut net, n));
    let mut mesh = node(&dir, "node", &plain(&[], ""));
    mesh.start(&node_host).unwrap();
    need(&mesh, "status", || mesh.status());
    let network = network_of(&mesh);
    let content = RecordContent { name: "mallory".into(), ..RecordContent::default() };
    let mallory = Hostile::start(&mallory_host, v4(3).into(), network.clone(), identity(1), content);
    mallory.set_bootstrap(&["198.51.100.2"]);
    let to = id_of(&mesh);
    mallory.need_link(to);
    let recorder = Recorder::start(&victim_host);
    let (began, mut seqno, mut port) = (Instant::now(), unix() as u32, 1000u16);
    while began.elapsed() < TIME {
        seqno += 1;
        for i in 0..4 {
            let key = identity(100 + i);
            let forged = forge(&network, &key, seqno, |record| {
                let at = |n| wire::encode_endpoint((v4(4), port.wrapping_add(n).max(1)).into());
                record.endpoints = (0..16).map(at).collect();
            });
            port = port.wrapping_add(16);
            mallory.tell(to, offer(2000 + i as u32, &key, seqno, 1, forged));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let got: Vec<usize> = recorder.take().iter().filter(|s| s.from == place(2)).map(|s| s.body.len()).collect();
    let (count, bytes) = (got.len(), got.iter().sum::<usize>());
    assert!(count <= ALLOWED, "{count} datagrams, {bytes} bytes, went to a host outside the mesh in {TIME:?}");
    format!("{count} datagrams, {bytes} bytes in {} s to a host outside the mesh", TIME.as_secs())
}
