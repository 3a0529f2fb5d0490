//! Hosts that allow less: containers, and kernels without IPv6.
#![allow(unsafe_code)] // a filter of system calls, before the daemon is executed

use std::{
    io,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aegisray::{
    api::Request,
    lab::{
        daemon::{Daemon, wait_for},
        topology::{Host, Internet},
    },
};

use super::{
    guests::until_it_says,
    harness::{Dir, bootstrap, need, need_route, node, quiet},
    world::{EXITS, WEB, World, v6},
};

/// Ends with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sysctl(host: &Host, set: &str) {
    assert!(host.ns.command("sysctl").args(["-qw", set]).status().unwrap().success(), "{set}");
}

/// A daemon of which an engine has set the sysctls, and made /proc/sys read-only.
fn contained(daemon: &Daemon, host: &Host) -> Started {
    let line = format!(
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec {} -config {}",
        env!("CARGO_BIN_EXE_aegisray"),
        daemon.dir.join("peer.yaml").display()
    );
    let log = std::fs::File::options().create(true).append(true).open(daemon.dir.join("daemon.log")).unwrap();
    let mut command = host.ns.command("unshare");
    Started(
        command.args(["-m", "sh", "-c", &line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap(),
    )
}

pub fn with_a_read_only_proc_sys() {
    let portal = "portal: { enabled: true, endpoint: 203.0.113.8 }\nrouting:\n  announce: [\"192.168.77.0/24\"]\n";
    let mut world = World::new("exit: exit-a\n", portal);
    let host = &world.exit_hosts[0];
    for set in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        sysctl(host, set);
    }
    let mut exit = contained(&world.exits[0], host);
    world.relay.start(&world.relay_host).unwrap();
    world.client.start(&world.client_host).unwrap();
    for (to, seen) in [(IpAddr::from(WEB), IpAddr::from(EXITS[0])), (v6(WEB).into(), v6(EXITS[0]).into())] {
        let carried = || (world.seen_as(to) == Some(seen)).then_some(());
        wait_for(Duration::from_secs(20), carried).unwrap_or_else(|| panic!("{to}: {}", world.exits[0].log_tail()));
    }
    println!("  an exit for IPv4 and IPv6, a portal and a subnet router run with a read-only /proc/sys");
    exit.0.kill().unwrap();
    exit.0.wait().unwrap();
    // As a plain node, after a crash: nothing that can't be undone keeps it down.
    let file = world.exits[0].dir.join("peer.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let plain = text.split("exit_node:").next().unwrap();
    std::fs::write(&file, plain).unwrap();
    let _plain = contained(&world.exits[0], &world.exit_hosts[0]);
    let runs = || world.exits[0].ask(&Request::Status).ok().map(drop);
    wait_for(Duration::from_secs(10), runs).unwrap_or_else(|| panic!("it starts again: {}", world.exits[0].log_tail()));
}

/// No socket of IPv6 can be made, as on a kernel without it.
fn without_ipv6_sockets(command: &mut Command) {
    const FILTER: u32 = 2;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_socket).unwrap();
    let errno = 0x0005_0000 | u32::try_from(libc::EAFNOSUPPORT).unwrap();
    // seccomp(2): the number of the call is at 0, the first argument at 16.
    let program = [
        step(0x20, 0, 0, 0),
        step(0x15, number, 0, 3),
        step(0x20, 16, 0, 0),
        step(0x15, u32::try_from(libc::AF_INET6).unwrap(), 0, 1),
        step(0x06, errno, 0, 0),
        step(0x06, 0x7fff_0000, 0, 0),
    ];
    let apply = move || {
        let mut program = program;
        let all = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: both only change this process, which is about to execute another program; the filter outlives the call.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, FILTER, &raw const all) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: prctl(2) may be called between fork and exec.
    unsafe { command.pre_exec(apply) };
}

pub fn a_kernel_without_ipv6() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut public = |last: u8| internet.public([203, 0, 113, last].into()).unwrap();
    let (alpha_host, beta_host) = (public(1), public(2));
    // Such a kernel has no such interface either.
    for of in ["all", "default"] {
        sysctl(&alpha_host, &format!("net.ipv6.conf.{of}.disable_ipv6=1"));
    }
    let alpha = node(&dir, "alpha", &quiet());
    let mut beta = node(&dir, "beta", &bootstrap("203.0.113.1"));
    let log = std::fs::File::create(alpha.dir.join("daemon.log")).unwrap();
    let mut command = alpha.command(&alpha_host);
    command.arg("-config").arg(alpha.dir.join("peer.yaml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    without_ipv6_sockets(&mut command);
    let _running = Started(command.spawn().unwrap());
    beta.start(&beta_host).unwrap();
    need_route(&beta, "alpha");
    let addresses = |daemon: &Daemon| need(daemon, "addresses", || daemon.addresses()).0;
    let (own, other) = (addresses(&alpha), addresses(&beta));
    until_it_says(&alpha_host, own, &["beta.aegis"], &other.to_string());
    until_it_says(&alpha_host, own, &["+tcp", "alpha.aegis"], &own.to_string());
    until_it_says(&beta_host, other, &["alpha.aegis"], &own.to_string());
    until_it_says(&beta_host, other, &["alpha.aegis", "AAAA"], "");
    println!("  a node whose kernel has no IPv6 is in the mesh, serves its names, and is told with IPv4 alone");
}
