//! A boot: the real systemd as the first process, with the units of this repository and a network that comes after `network-pre.target`.

use std::{fs, process::Stdio, time::Duration};

use aegisray::lab::daemon::wait_for;

use super::harness::Dir;

/// Units that have to do with hardware and with files of the host.
const MASKED: &str = "dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-udevd.service systemd-udev-trigger.service \
    systemd-journald.service systemd-modules-load.service systemd-sysctl.service proc-sys-fs-binfmt_misc.automount \
    systemd-remount-fs.service systemd-random-seed.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup.service";

/// What a network manager does, and what packets to the internet would do then.
const NETWORK: &str = "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=network.target\n\
    [Service]\nType=oneshot\nExecStart=/bin/sh /etc/network.sh\n";
const SCRIPT: &str = "ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up; ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up\n\
    ip route add default via 192.0.2.1\n\
    { ip route get 192.0.2.9; ip route get 198.51.100.1; ip rule; } > /var/seen.part 2>&1; mv /var/seen.part /var/seen\n";
const TARGET: &str = "[Unit]\nRequires=sysinit.target network.service\nAfter=sysinit.target network.service\n";

/// What the boot's network sees; `units`: with the fence's unit.
fn boot(with_fence: bool) -> String {
    let dir = Dir::new();
    let at = dir.0.display();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
    let fence = if with_fence {
        "ln -s /etc/systemd/system/aegisray-fence.service $system/sysinit.target.wants/"
    } else {
        "true"
    };
    let first = format!(
        "set -e
         for d in etc var usr/local; do
             u={at}/over/$d; w={at}/work/$d; mkdir -p $u $w
             mount -t overlay overlay -o lowerdir=/$d,upperdir=$u,workdir=$w /$d
         done
         mount -t proc proc /proc; mount -t tmpfs tmpfs /run; umount -R /sys || true; mount -t sysfs sysfs /sys
         mount -t cgroup2 cgroup2 /sys/fs/cgroup
         system=/etc/systemd/system; rm -rf $system; mkdir -p $system/sysinit.target.wants /etc/aegisray
         cp {program} /usr/local/bin/aegisray; cp {units}/aegisray-fence.service $system/; {fence}
         printf 'exit: auto\\nnetwork: {{ name: home, secret_file: network.key }}\\n' > /etc/aegisray/peer.yaml
         printf '{NETWORK}' > $system/network.service; printf '{TARGET}' > $system/probe.target
         printf '%s' '{SCRIPT}' > /etc/network.sh
         for unit in {MASKED}; do ln -s /dev/null $system/$unit; done
         container=other exec /lib/systemd/systemd --system --unit=probe.target --log-target=console",
        program = env!("CARGO_BIN_EXE_aegisray"),
    );
    fs::write(dir.0.join("first.sh"), first).unwrap();
    // Its control groups are below one of the test's.
    let group = format!("aegisray-boot-{}", std::process::id());
    let outer = format!(
        "mkdir {at}/cg; mount -t cgroup2 cgroup2 {at}/cg; mkdir {at}/cg/{group}; echo $$ > {at}/cg/{group}/cgroup.procs; \
         exec unshare -mnpuCi --fork --kill-child sh {at}/first.sh"
    );
    let log = fs::File::create(dir.0.join("log")).unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &outer]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut first = command.spawn().unwrap();
    let seen = dir.0.join("over/var/seen");
    let told = wait_for(Duration::from_secs(60), || fs::read_to_string(&seen).ok());
    let _ = (first.kill(), first.wait());
    let tidy = format!(
        "mount -t cgroup2 cgroup2 {at}/cg; sleep 0.3; find {at}/cg/{group} -depth -type d -exec rmdir {{}} \\;"
    );
    let _ = std::process::Command::new("unshare").args(["-m", "sh", "-c", &tidy]).stderr(Stdio::null()).status();
    told.unwrap_or_else(|| panic!("no boot: {}", fs::read_to_string(dir.0.join("log")).unwrap_or_default()))
}

pub fn the_fence_is_there_first() {
    if !fs::read_to_string("/proc/self/uid_map").unwrap().trim_end().ends_with("4294967295") {
        println!("  not tried: systemd boots for root alone");
        return;
    }
    let open = boot(false);
    assert!(open.contains("192.0.2.9 dev eth0") && open.contains("198.51.100.1 via 192.0.2.1 dev eth0"), "{open}");
    let closed = boot(true);
    println!("  with the unit, the network that comes up sees:\n    {}", closed.trim_end().replace('\n', "\n    "));
    assert!(!closed.contains("198.51.100.1 via"), "{closed}");
    assert!(closed.contains("unreachable") && closed.contains("5178:"), "{closed}");
}
