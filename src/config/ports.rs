//! Ports, interfaces and paths that a node would take twice, or can't take.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::ffi::OsStrExt as _,
};

use super::{Config, ConfigError, Reader};

/// What fits a UNIX socket's address, with the zero at its end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Names that mean something else to the kernel.
const NO_INTERFACES: [&str; 3] = ["lo", "all", "default"];

/// A port that the configuration takes: the key that names it, where it is.
type Taken = (&'static str, IpAddr, u16);

impl Reader<'_> {
    pub(super) fn check_resources(&self, config: &Config) -> Result<(), ConfigError> {
        let every: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let here: IpAddr = Ipv4Addr::LOCALHOST.into();
        let at = |key, ip, port: Option<u16>| port.filter(|p| *p != 0).map(|port| (key, ip, port));
        let (serve, chat) = (config.stealth.serve.as_ref(), config.chat.as_ref());
        let datagrams = [
            at("listen.port", config.listen.ip(), Some(config.listen.port())),
            at("portal.port", every, config.portal.as_ref().map(|p| p.port)),
        ];
        let site = serve.and_then(|s| at("stealth.serve.port", s.listen.ip(), Some(s.listen.port())));
        let streams = at("listen.tcp_port", config.listen.ip(), config.tcp_port);
        let of_chat = [
            at("chat.port", every, chat.map(|c| c.port)),
            at("chat.page", here, chat.and_then(|c| c.page)),
            at("chat.irc", here, chat.and_then(|c| c.irc)),
        ];
        self.check_ports("UDP", &datagrams.into_iter().flatten().collect::<Vec<_>>())?;
        // The site has 443 before the streams of members, which go without.
        for first in [site, streams] {
            self.check_ports("TCP", &first.into_iter().chain(of_chat.into_iter().flatten()).collect::<Vec<_>>())?;
        }
        let portal = config.portal.as_ref().map(|p| ("portal.interface", &p.interface));
        for (key, name) in [("mesh.interface", &config.interface)].into_iter().chain(portal) {
            if NO_INTERFACES.contains(&name.as_str()) {
                return Err(self.missing(key, &format!("`{name}` is the kernel's: choose another name, like aegis0")));
            }
        }
        if portal.is_some_and(|(_, name)| *name == config.interface) {
            let message =
                format!("`{}` is the mesh's interface (mesh.interface): choose another name", config.interface);
            return Err(self.missing("portal.interface", &message));
        }
        let length = config.socket.as_os_str().as_bytes().len();
        if length > MAX_SOCKET_PATH {
            let message = format!("a socket's path has at most {MAX_SOCKET_PATH} bytes, this one has {length}");
            return Err(self.missing("socket", &message));
        }
        if config.state_dir.exists() && !config.state_dir.is_dir() {
            return Err(self.missing("state_dir", &format!("{} is no directory", config.state_dir.display())));
        }
        Ok(())
    }

    fn check_ports(&self, protocol: &str, taken: &[Taken]) -> Result<(), ConfigError> {
        for (i, (key, ip, port)) in taken.iter().enumerate() {
            if let Some((other, ..)) = taken.iter().take(i).find(|(_, at, p)| p == port && overlap(*ip, *at)) {
                return Err(self
                    .missing(key, &format!("{protocol} port {port} is that of {other} as well: choose another one")));
            }
        }
        Ok(())
    }
}

/// Whether sockets at both addresses would be in each other's way.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    covers(a, b) || covers(b, a)
}
