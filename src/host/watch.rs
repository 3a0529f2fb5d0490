//! News of what others change in this host's firewall and routing.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use super::{
    netlink::{attributes, messages, open, receive, word},
    policy::Table,
};

/// Of `linux/netfilter/nfnetlink.h` and `linux/rtnetlink.h`; the first 31 groups are bits.
const NFNLGRP_NFTABLES: u32 = 7;
const ROUTING: [u32; 4] =
    [libc::RTNLGRP_IPV4_RULE, libc::RTNLGRP_IPV6_RULE, libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE];

/// What may have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rules of nftables, whosever.
    pub firewall: bool,
    /// Policy rules, or routes in a table of ours.
    pub routing: bool,
}

/// News of nftables, policy rules and routes from the kernel.
pub struct Watch {
    firewall: OwnedFd,
    routing: OwnedFd,
    buf: Vec<u8>,
}

impl Watch {
    pub fn open() -> io::Result<Self> {
        let groups = ROUTING.iter().map(|g| 1 << (g - 1)).sum();
        let firewall = open(libc::NETLINK_NETFILTER, 1 << (NFNLGRP_NFTABLES - 1))?;
        Ok(Self { firewall, routing: open(libc::NETLINK_ROUTE, groups)?, buf: vec![0; 64 * 1024] })
    }

    /// Waits for news, or until `wake` can be read, or for so long.
    pub fn wait(&mut self, wake: &impl AsFd, limit: Duration) -> io::Result<Changed> {
        let fds = [self.firewall.as_raw_fd(), self.routing.as_raw_fd(), wake.as_fd().as_raw_fd()];
        let mut fds = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let limit = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer and length are of a live, writable array.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut changed = Changed::default();
        if fds[0].revents != 0 {
            changed.firewall = self.drain(true);
        }
        if fds[1].revents != 0 {
            changed.routing = self.drain(false);
        }
        Ok(changed)
    }

    /// Reads what is there; whether something of it is of concern.
    fn drain(&mut self, is_firewall: bool) -> bool {
        let fd = if is_firewall { &self.firewall } else { &self.routing };
        match receive(fd, &mut self.buf) {
            Ok(_) if is_firewall => true,
            Ok(n) => messages(&self.buf[..n]).any(|(kind, _, body)| concerns(kind, body)),
            // The kernel dropped news for lack of room: whatever they were, something changed.
            Err(_) => true,
        }
    }
}

fn concerns(kind: u16, body: &[u8]) -> bool {
    let is_ours = |table: u32| [Table::Mesh, Table::Tunnel].iter().any(|t| t.number() == table);
    match kind {
        libc::RTM_NEWRULE | libc::RTM_DELRULE => true,
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let mut table = attributes(body.get(12..).unwrap_or_default()).filter(|(kind, _)| *kind == libc::RTA_TABLE);
            table.next().and_then(|(_, value)| word(value)).is_some_and(is_ours)
        }
        _ => false,
    }
}
