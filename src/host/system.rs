//! Small questions to the operating system.

use std::{ffi::CStr, io, net::IpAddr, os::unix::net::UnixDatagram, path::Path};

/// Random bytes from the operating system, at most 256.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    // SAFETY: the pointer and length are of a live, writable array; up to 256 bytes are never cut short.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if usize::try_from(n) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Where the tree of cgroup v2 is mounted; some hosts keep it below those of v1.
#[must_use]
pub fn cgroup_root() -> &'static Path {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.join("cgroup.procs").exists() { hybrid } else { Path::new("/sys/fs/cgroup") }
}

/// The first and the last port from which this host asks others, unless a program wants another one.
#[must_use]
pub fn ephemeral_ports() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = text.split_whitespace().filter_map(|n| n.parse().ok());
    ports.next().zip(ports.next()).unwrap_or((32_768, 60_999))
}

/// Ports at which programs of this host take in TCP or UDP, as /proc/net lists them (proc(5)): those of connections are not among them.
#[must_use]
pub fn listening() -> Vec<u16> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    // TCP_LISTEN, and UDP without a peer.
    let all = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")].map(|(name, state)| (table(name), state));
    let port = |line: &str, state: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, is_it) = (words.next()?, words.nth(1)? == state);
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok().filter(|_| is_it)
    };
    let mut ports: Vec<u16> =
        all.iter().flat_map(|(text, state)| text.lines().skip(1).filter_map(|line| port(line, state))).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[must_use]
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// An address of a running interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    pub interface: String,
    /// The interface's number; 0: it went away meanwhile.
    pub index: u32,
    pub ip: IpAddr,
    /// Bits of the prefix that is on its link.
    pub prefix_len: u8,
}

/// The addresses of this host's running interfaces, by interface name; loopback and link-local ones left out.
pub fn interface_addresses() -> io::Result<Vec<(String, IpAddr)>> {
    Ok(interface_networks()?.into_iter().map(|a| (a.interface, a.ip)).collect())
}

/// Whether an interface can have IPv6 addresses: not on a kernel without, nor where the host has switched it off.
#[must_use]
pub fn has_ipv6(interface: &str) -> bool {
    let file = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    std::fs::read_to_string(file).is_ok_and(|value| value.trim() == "0")
}

/// [`interface_addresses`] with the networks that they are in.
pub fn interface_networks() -> io::Result<Vec<InterfaceAddress>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes a list head to `list`, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut out = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: `at` walks the list that getifaddrs made, up to its null end.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        let usable = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
        if entry.ifa_addr.is_null() || entry.ifa_flags & usable != usable {
            continue;
        }
        // SAFETY: a non-null ifa_addr points to a sockaddr of the family that it names, and so does its netmask.
        let (Some(ip), mask) = (unsafe { (ip_of(entry.ifa_addr), ip_of(entry.ifa_netmask)) }) else { continue };
        let local = match ip {
            IpAddr::V4(a) => a.is_loopback() || a.is_link_local(),
            IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local(),
        };
        if !local {
            // SAFETY: ifa_name is a NUL-terminated string of the list.
            let (name, index) = unsafe { (CStr::from_ptr(entry.ifa_name), libc::if_nametoindex(entry.ifa_name)) };
            let prefix_len = match mask {
                Some(IpAddr::V4(mask)) => u32::from(mask).leading_ones(),
                Some(IpAddr::V6(mask)) => u128::from(mask).leading_ones(),
                None if ip.is_ipv4() => 32,
                None => 128,
            };
            let interface = name.to_string_lossy().into_owned();
            out.push(InterfaceAddress { interface, index, ip, prefix_len: prefix_len as u8 });
        }
    }
    // SAFETY: `list` came from getifaddrs and nothing borrows from it any more.
    unsafe { libc::freeifaddrs(list) };
    out.sort();
    Ok(out)
}

/// The IP address in a sockaddr.
///
/// # Safety
/// `addr` is null or points to a sockaddr of the family that it names.
unsafe fn ip_of(addr: *const libc::sockaddr) -> Option<IpAddr> {
    if addr.is_null() {
        return None;
    }
    // SAFETY: the caller says what it points to.
    unsafe {
        match libc::c_int::from((*addr).sa_family) {
            libc::AF_INET => {
                let a = &*addr.cast::<libc::sockaddr_in>();
                Some(u32::from_be(a.sin_addr.s_addr).to_be_bytes().into())
            }
            libc::AF_INET6 => Some((*addr.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr.into()),
            _ => None,
        }
    }
}

/// Gives up every capability but those that the daemon goes on needing (CAP_NET_ADMIN, CAP_NET_RAW,
/// CAP_NET_BIND_SERVICE), and the right to gain new ones.
pub fn drop_privileges() -> io::Result<()> {
    const KEEP: u64 = 1 << 10 | 1 << 12 | 1 << 13;
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and data are the structures that version 3 of the call takes.
    unsafe {
        if libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) < 0 {
            return Err(io::Error::last_os_error());
        }
        for (i, d) in data.iter_mut().enumerate() {
            let keep = (KEEP >> (32 * i)) as u32;
            d.permitted &= keep;
            d.effective &= keep;
            d.inheritable = 0;
        }
        if libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) < 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Tells systemd a state (`READY=1`, …) if it asked to be told (sd_notify(3)). Errors are of no consequence.
pub fn sd_notify(state: &str) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    if let Some(name) = path.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt as _;
        if let Ok(addr) = std::os::unix::net::SocketAddr::from_abstract_name(name) {
            let _ = socket.send_to_addr(state.as_bytes(), &addr);
        }
    } else {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}

/// Ends this process as one ends whose output nobody reads any more: quietly, and so that a shell can tell why.
pub fn end_by_closed_pipe() -> ! {
    // SAFETY: both calls change nothing but what a signal does to this process, which is to end it.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
    // Where the signal is blocked: what a shell says of one that it has ended.
    std::process::exit(128 + libc::SIGPIPE)
}

/// Lets this process open as many files as the system allows it to, and returns how many.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is writable and lives through both calls.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if raised { Ok(limit.rlim_cur) } else { Err(io::Error::last_os_error()) }
}

/// Processor seconds that a process has used, user and system.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name, in parentheses, may hold spaces. Fields 14 and 15 of proc_pid_stat(5), in hundredths.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

/// Resident memory of a process in KiB, from /proc.
pub fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok());
    kib.ok_or_else(|| io::Error::other("no VmRSS line"))
}
