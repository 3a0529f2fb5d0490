//! An exit beside others' firewalls: the real programs, each with its files in a directory of the test's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aegisray::{
    api::Request,
    lab::{daemon::wait_for, topology::Host},
};

use super::{
    harness::Dir,
    world::{EXITS, WEB, World},
};

/// Programs that are not installed, seen by themselves as if they were: their files lie over the host's own.
struct Guests<'a> {
    host: &'a Host,
    over: PathBuf,
}

impl<'a> Guests<'a> {
    fn new(host: &'a Host, dir: &Dir) -> Self {
        let over = dir.0.join("over");
        for part in ["etc", "usr", "var"] {
            fs::create_dir_all(over.join(part)).unwrap();
            fs::create_dir_all(over.join("work").join(part)).unwrap();
        }
        Self { host, over }
    }

    /// A shell that runs `line` where the programs are.
    fn shell(&self, line: &str) -> Command {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/others");
        assert!(package.join("usr/sbin/ufw").exists(), "make setup-tests gets ufw and others");
        let (package, over) = (package.display(), self.over.display());
        let mut command = self.host.ns.command("unshare");
        let mount = format!(
            "set -e; for d in etc usr var; do mount -t overlay overlay \
             -o lowerdir={package}/$d:/$d,upperdir={over}/$d,workdir={over}/work/$d /$d; done; mount -t tmpfs tmpfs /run; {line}"
        );
        command.args(["-mp", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &mount]);
        command
    }

    /// What it prints; it has to succeed.
    fn run(&self, line: &str) -> String {
        let output = self.shell(line).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{line}: {text}");
        text
    }
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long it takes until the client goes out by the exit.
fn until_carried(world: &World, when: &str) -> Duration {
    let began = Instant::now();
    let carried = || (world.seen_as(WEB.into()) == Some(EXITS[0].into())).then_some(());
    let found = wait_for(Duration::from_secs(20), carried);
    assert!(found.is_some(), "nothing is carried {when}: {}", world.exits[0].log_tail());
    began.elapsed()
}

/// The rules of iptables, sorted, without counters and our own.
fn theirs(host: &Host) -> Vec<String> {
    let output = host.ns.command("iptables-save").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rules: Vec<String> =
        text.lines().filter(|l| l.starts_with("-A") && !l.contains("aegis0")).map(str::to_owned).collect();
    rules.sort();
    rules
}

fn count_of_ours(host: &Host) -> usize {
    let output = host.ns.command("iptables-save").output().unwrap();
    String::from_utf8_lossy(&output.stdout).matches("aegis0").count()
}

pub fn ufw_and_netfilter_persistent() {
    let dir = Dir::new();
    let mut world = World::running("exit: exit-a\n", "");
    let host = &world.exit_hosts[0];
    let guests = Guests::new(host, &dir);
    // As the packages' scripts do it.
    guests.run(
        "cp /usr/share/ufw/*.rules /usr/share/ufw/*.init /usr/share/ufw/ufw.conf /etc/ufw/; mkdir -p /etc/iptables",
    );
    guests.run(
        "ufw default deny incoming; ufw default deny routed; ufw allow 51900/udp; ufw allow 22/tcp; ufw --force enable",
    );
    println!(
        "  `ufw enable`, with all routed denied: carried {} ms later",
        until_carried(&world, "after ufw enable").as_millis()
    );
    let before = theirs(host);
    assert!(before.iter().filter(|r| r.contains("ufw-")).count() > 50, "ufw's rules: {before:?}");
    guests.run("ufw reload");
    println!("  `ufw reload`: carried {} ms later", until_carried(&world, "after ufw reload").as_millis());
    let status = guests.run("ufw status verbose");
    assert!(status.contains("Status: active") && status.contains("51900/udp"), "{status}");
    assert_eq!(theirs(host), before, "ufw's rules are what they were");
    // A boot: what was saved, and a daemon that was killed.
    guests.run("netfilter-persistent save");
    let saved = guests.run("cat /etc/iptables/rules.v4");
    assert!(before.iter().all(|rule| saved.contains(&**rule)), "the file is complete:\n{saved}");
    let ours = count_of_ours(host);
    world.exits[0].kill();
    guests.run("netfilter-persistent flush; nft flush ruleset; netfilter-persistent start");
    assert_eq!(theirs(host), before, "restored");
    world.exits[0].start(host).unwrap();
    println!(
        "  netfilter-persistent saves {} rules; after a boot with them: carried {} ms after the start",
        before.len(),
        until_carried(&world, "after a boot").as_millis()
    );
    assert_eq!(count_of_ours(host), ours, "ours are there once");
    // What netfilter-persistent has put there is its own from now on.
    guests.run("ufw reload");
    until_carried(&world, "after another reload");
    let _ = world.exits[0].ask(&Request::Stop);
    wait_for(Duration::from_secs(5), || (!world.exits[0].is_running()).then_some(())).expect("it ends");
    assert_eq!((count_of_ours(host), theirs(host)), (ours, before));
}

pub fn firewalld() {
    let dir = Dir::new();
    let world = World::running("exit: exit-a\n", "");
    let host = &world.exit_hosts[0];
    let guests = Guests::new(host, &dir);
    let reload = dir.0.join("reload");
    let conf = dir.0.join("bus.conf");
    let text = "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
        <busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>\
        <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_type=\"*\"/><allow receive_type=\"*\"/></policy></busconfig>";
    fs::write(&conf, text).unwrap();
    guests.run("firewall-offline-cmd --add-port=51900/udp");
    let line = format!(
        "mkdir -p /run/dbus; dbus-daemon --config-file={} --fork --nopidfile; firewalld --nofork --nopid & f=$!; \
         while sleep 0.1; do if [ -e {reload} ]; then rm {reload}; kill -HUP $f; fi; done",
        conf.display(),
        reload = reload.display()
    );
    let log = fs::File::create(dir.0.join("firewalld.log")).unwrap();
    let mut command = guests.shell(&line);
    let _service = Service(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let rules = || {
        let output = host.ns.command("nft").args(["list", "table", "inet", "firewalld"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Its last rule of what is forwarded.
    let is_up = || rules().contains("filter_FORWARD_POLICIES").then_some(());
    wait_for(Duration::from_secs(30), is_up).unwrap_or_else(|| {
        panic!("firewalld runs: {}", fs::read_to_string(dir.0.join("firewalld.log")).unwrap_or_default())
    });
    println!("  firewalld starts: carried {} ms later", until_carried(&world, "beside firewalld").as_millis());
    let ours = || rules().matches("aegis0").count();
    assert!(ours() > 0, "its chain lets the mesh through: {}", rules());
    // It makes its table anew.
    let mark = ["add", "chain", "inet", "firewalld", "mark_of_the_test"];
    assert!(host.ns.command("nft").args(mark).status().unwrap().success());
    // It has to come so far that it takes signals.
    std::thread::sleep(Duration::from_secs(4));
    fs::write(&reload, "").unwrap();
    let is_new = || (is_up().is_some() && !rules().contains(mark[4])).then_some(());
    wait_for(Duration::from_secs(20), is_new).expect("it reloads");
    println!("  its reload: carried {} ms later", until_carried(&world, "after firewalld's reload").as_millis());
    let _ = world.exits[0].ask(&Request::Stop);
    wait_for(Duration::from_secs(5), || (ours() == 0).then_some(()))
        .expect("nothing of ours stays in firewalld's chains");
}
