//! A route is hearsay until somebody answers at its end.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use aegisray::{
    api::{Request, Response},
    identity::RecordContent,
    lab::{
        daemon::{Daemon, wait_for},
        topology::Internet,
    },
    wire::proto::{Introduction, RouteUpdate, control_message},
};

use super::{
    harness::{Dir, PATIENCE, need, need_route, node},
    hostile::{Hostile, id_of, identity, network_of},
    world::{plain, public, v4},
};

fn exit_of(client: &Daemon) -> Option<String> {
    match client.ask(&Request::Exit { choice: None }) {
        Ok(Response::Exit(status)) => status.name,
        _ => None,
    }
}

/// A member says that it has a short way to an exit that is dead: who would use it takes the live one.
pub fn dead_exit() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [client_host, near_host, far_host, mallory_host] = [2, 3, 4, 5].map(|n| public(&mut net, n));
    let exit = |name| node(&dir, name, &plain(&[], "exit_node:\n  enabled: true\n"));
    let (mut near, mut far) = (exit("near"), exit("far"));
    near.start(&near_host).unwrap();
    far.start(&far_host).unwrap();
    let (near_id, far_id) = (id_of(&near), id_of(&far));
    // The nearer one is to be chosen for certain: the other one comes later.
    far.kill();
    let costs = format!("routing:\n  link_cost:\n    - {{ node: {far_id}, cost: 50000 }}\n");
    let exit = "exit: auto\nexit_options:\n  kill_switch: false\n";
    let bootstrap = plain(&["198.51.100.3", "198.51.100.4"], &format!("{costs}{exit}"));
    let mut client = node(&dir, "client", &bootstrap);
    client.start(&client_host).unwrap();
    need(&client, "the nearer exit", || exit_of(&client).filter(|name| name == "near"));
    far.start(&far_host).unwrap();
    for name in ["near", "far"] {
        need_route(&client, name);
    }
    let content = RecordContent { name: "mallory".into(), ..RecordContent::default() };
    let mallory = Hostile::start(&mallory_host, v4(5).into(), network_of(&client), identity(1), content);
    // It has no link with the exits, so that it has nothing true to say of them.
    let is_exit = |at: &mut SocketAddr| [v4(3), v4(4)].map(IpAddr::from).contains(&at.ip());
    mallory.on_incoming(Box::new(move |from, _| !is_exit(from)));
    mallory.on_outgoing(Box::new(move |to, _| !is_exit(to)));
    mallory.set_bootstrap(&["198.51.100.2"]);
    let to = id_of(&client);
    mallory.need_link(to);
    mallory.need_known(near_id);
    let lie = || {
        let seqno = mallory.seqno_of(near_id).unwrap_or_default();
        let update = RouteUpdate {
            introductions: vec![Introduction { slot: 3000, node_id: near_id.0.to_vec() }],
            slots: vec![3000],
            seqnos: vec![seqno],
            metrics: vec![1],
            ..RouteUpdate::default()
        };
        mallory.tell(to, control_message::Kind::Routes(update));
    };
    lie();
    std::thread::sleep(Duration::from_secs(1));
    // What goes out is for somebody who never answers: only the exit itself can show that it is there.
    let user = client_host.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let goes_out = || drop(user.send_to(b"to the internet", "203.0.113.80:9"));
    near.kill();
    let began = std::time::Instant::now();
    let changed = wait_for(2 * PATIENCE, || {
        lie();
        goes_out();
        std::thread::sleep(Duration::from_millis(100));
        exit_of(&client).filter(|name| name == "far")
    });
    changed.unwrap_or_else(|| panic!("the client stays with {:?}, which is dead", exit_of(&client)));
    let took = began.elapsed().as_secs_f64();
    // And stays there, however long the lie is repeated.
    for _ in 0..50 {
        lie();
        goes_out();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(exit_of(&client).as_deref(), Some("far"), "back to the dead one");
    }
    format!("the live exit after {took:.1} s")
}
