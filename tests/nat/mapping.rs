//! Public ports from a real router daemon (miniupnpd): PCP, NAT-PMP, UPnP.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use aegisray::{
    api::Request,
    lab::topology::{Host, Internet},
};

use super::{
    harness::{Dir, bootstrap, need, need_route, node, program, quiet},
    matrix::is_direct,
    routers::nft,
    running::Running,
};

// miniupnpd serves no addresses of documentation's ranges. These stay in the test's namespaces.
const ROUTER: &str = "9.9.9.1";
const OTHER: &str = "9.9.9.2";
const HUB: &str = "9.9.9.9";

const RULES: &str = "
table inet filter {
  chain forward { type filter hook forward priority 0; policy accept;
    ct state established,related accept; ct status dnat accept; jump miniupnpd; iifname eth0 drop
  }
  chain input { type filter hook input priority 0; policy accept; iifname eth0 meta l4proto udp drop
  }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd
  }
  chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname eth0 masquerade
  }
  chain miniupnpd {
  }
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
}";

fn miniupnpd(dir: &Dir, router: &Host, natpmp: bool, upnp: bool) -> Running {
    let yes = |on: bool| if on { "yes" } else { "no" };
    let config = format!(
        "ext_ifname=eth0\nlistening_ip=lan0\nenable_natpmp={}\nenable_upnp={}\nsecure_mode=yes\nsystem_uptime=yes\n\
         upnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
         upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
         uuid=6c1b5a4e-0000-4000-8000-6165676973ff\nallow 1024-65535 0.0.0.0/0 1024-65535\n",
        yes(natpmp),
        yes(upnp)
    );
    let path = dir.0.join("miniupnpd.conf");
    std::fs::write(&path, config).unwrap();
    let log = std::fs::File::create(dir.0.join("miniupnpd.log")).unwrap();
    let mut command = router.ns.command("miniupnpd");
    command.arg("-d").arg("-f").arg(&path).arg("-P").arg(dir.0.join("miniupnpd.pid"));
    let output = log.try_clone().unwrap();
    command.stdout(output).stderr(log);
    Running::start_heard(command)
}

fn mappings(router: &Host) -> String {
    let mut command: Command = router.ns.command("nft");
    let output = command.args(["list", "chain", "inet", "filter", "prerouting_miniupnpd"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn every_protocol() {
    for (natpmp, upnp, expected) in [(true, false, "PCP, NAT-PMP"), (false, true, "UPnP")] {
        let dir = Dir::new();
        let mut internet = Internet::new().unwrap();
        let hub_host = internet.public(HUB.parse().unwrap()).unwrap();
        let mut hub = node(&dir, "hub", &quiet());
        hub.start(&hub_host).unwrap();
        let router = internet.public(ROUTER.parse().unwrap()).unwrap();
        let host = router.behind([192, 168, 1]).unwrap();
        nft(&router, RULES);
        let _running = miniupnpd(&dir, &router, natpmp, upnp);
        std::thread::sleep(Duration::from_millis(300));
        let netcheck = ["netcheck", "--server", &format!("{HUB}:51900"), "--config"];
        let mut command = host.ns.command(program());
        let output = command.args(netcheck).arg(hub.dir.join("peer.yaml")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("gives out ports by {expected}\n")), "{text}");
        let mut a = node(&dir, "mapped", &bootstrap(HUB));
        a.start(&host).unwrap();
        let endpoint = format!("{ROUTER}:51900").parse().unwrap();
        need(&a, "mapped endpoint", || a.status()?.node.endpoints.contains(&endpoint).then_some(()));
        need(&a, "mapping in the router", || mappings(&router).contains("51900").then_some(()));
        // A symmetric NAT reaches a mapped port at once.
        let far = internet.public(OTHER.parse().unwrap()).unwrap();
        let far_host = far.behind([192, 168, 2]).unwrap();
        nft(&far, &RULES.replace("masquerade", "masquerade fully-random"));
        let mut c = node(&dir, "symmetric", &bootstrap(HUB));
        c.start(&far_host).unwrap();
        need_route(&a, "symmetric");
        let start = Instant::now();
        need(&a, "direct path", || is_direct(&a, &c).then_some(()));
        println!("  {expected}: a symmetric NAT is direct {:.1} s after its route", start.elapsed().as_secs_f64());
        // At exit the port is given back.
        a.ask(&Request::Stop).unwrap();
        need(&hub, "removal of the mapping", || (!mappings(&router).contains("51900")).then_some(()));
    }
}
