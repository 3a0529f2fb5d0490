//! The configuration changes while the daemon runs.

use std::{fs, process::Command, time::Duration};

use aegisray::lab::{daemon::wait_for, load};

use super::{
    harness::need,
    world::{EXITS, ROUTER, WEB, World, state_of},
};

pub fn while_running() {
    let mut world = World::new("exit: off\n", "");
    world.start_others();
    world.start_client();
    need(&world.client, "two offers", || world.exit_status().map(|s| s.offers).filter(|o| o.len() == 2));
    let untouched = state_of(&world.client_host);
    let file = world.client.dir.join("peer.yaml");
    let first = fs::read_to_string(&file).unwrap();
    let relay = need(&world.relay, "addresses", || world.relay.addresses()).0;
    let sees = |world: &World, whom| {
        let seen = || (world.seen_as(WEB.into()) == Some(whom)).then_some(());
        wait_for(Duration::from_secs(10), seen)
            .unwrap_or_else(|| panic!("not as {whom}: {:?}", world.seen_as(WEB.into())));
    };
    sees(&world, ROUTER.into());
    let time = Duration::from_secs(4);
    let (session, printed) = std::thread::scope(|scope| {
        let transfer =
            scope.spawn(|| load::tcp(&world.client_host, &world.relay_host, relay, load::Streams::one(time)));
        std::thread::sleep(Duration::from_secs(1));
        let new = first.replace("exit: off\n", "exit: exit-b\nexit_options: { lan: false }\nmesh: { mtu: 1380 }\nrouting: { cost: 7000 }\nlog: { level: debug }\n");
        fs::write(&file, &new).unwrap();
        let printed = world.command(&["reload"]);
        sees(&world, EXITS[1].into());
        (transfer.join().unwrap(), printed)
    });
    println!("    {}", printed.trim_end().replace('\n', "\n    "));
    assert!(printed.contains("in force now      exit, exit_options.lan, log.level, routing.cost\n"), "{printed}");
    need(&world.client, "the cost", || world.client.route_to("relay").filter(|r| r.metric >= 7000));
    assert!(printed.contains("after a restart   mesh.mtu\n"), "{printed}");
    println!("  a transfer over it: {:.2} Gbit/s", session.expect("the session survives") / 1e9);
    // A mistake changes nothing.
    let fenced = state_of(&world.client_host);
    fs::write(&file, first.replace("exit: off\n", "exit: country:Sweden\n")).unwrap();
    let error = world.command(&["reload"]);
    println!("  {}", error.lines().next().unwrap_or_default());
    assert!(error.contains("peer.yaml:") && error.contains("two letters"), "{error}");
    assert_eq!(state_of(&world.client_host).replace("packets", ""), fenced.replace("packets", ""));
    sees(&world, EXITS[1].into());
    // By a signal.
    fs::write(&file, &first).unwrap();
    let pid = world.client.pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    sees(&world, ROUTER.into());
    let back = || (state_of(&world.client_host) == untouched).then_some(());
    wait_for(Duration::from_secs(3), back).expect("nothing left");
    // An exit retires, and another node becomes one.
    let file = world.exits[0].dir.join("peer.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("enabled: true", "enabled: false")).unwrap();
    let pid = world.exits[0].pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let one = need(&world.client, "one offer", || world.exit_status().map(|s| s.offers).filter(|o| o.len() == 1));
    assert_eq!(one[0].name, "exit-b");
    println!("  SIGHUP: back as it was; an exit that is none any more is no longer on offer");
}
