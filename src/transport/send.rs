//! Sending in batches: runs of equal datagrams to one address, many runs in one system call.

use std::{io, mem, net::SocketAddr, ops::Range, os::fd::AsRawFd};

use crate::types::path::{self, Local};

use super::{
    Sockets, UdpTransport,
    cmsg::{CONTROL, Control, SOL_UDP, UDP_SEGMENT, Writer},
    sources::may_be_at_fault,
};

/// Runs per system call.
const RUNS: usize = 64;
/// Datagrams of one run (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const RUN_DATAGRAMS: usize = 64;
/// Bytes of one run: what an IPv4 packet can hold.
const RUN_BYTES: usize = 65_507;
/// Bytes after which the batch leaves.
const BATCH_BYTES: usize = 256 << 10;

/// How often a datagram that is too long for this moment is tried again.
const PATIENCE: u32 = 100;

/// Datagrams for one address that leave as one: all of them `segment` bytes long but the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
struct Run {
    to: SocketAddr,
    /// What it leaves from; looked up once all are together.
    source: Option<Local>,
    ecn: u8,
    start: usize,
    len: usize,
    segment: usize,
    closed: bool,
}

impl Run {
    fn datagrams(self) -> impl Iterator<Item = Range<usize>> {
        let end = self.start + self.len;
        (self.start..end).step_by(self.segment.max(1)).map(move |at| at..end.min(at + self.segment))
    }
}

/// Datagrams that stand in a buffer and leave in one system call.
#[derive(Default)]
pub struct SendList {
    runs: Vec<Run>,
    bytes: usize,
    calls: u64,
    joined: bool,
}

impl SendList {
    /// A list whose datagrams leave in runs, if the sockets can do that.
    #[must_use]
    pub fn new(sockets: &Sockets) -> Self {
        Self { joined: sockets.main()[0].offloads().send, ..Self::default() }
    }

    /// Adds the datagram that stands at `at`, to `to`, with this ECN field.
    pub fn push(&mut self, to: SocketAddr, ecn: u8, at: Range<usize>) {
        self.bytes += at.len();
        if let Some(run) = self.runs.last_mut().filter(|_| self.joined)
            && !run.closed
            && run.start + run.len == at.start
            && run.to == to
            && run.ecn == ecn
            && at.len() <= run.segment
            && run.len + at.len() <= RUN_BYTES
            && run.len < run.segment * RUN_DATAGRAMS
        {
            run.len += at.len();
            run.closed = at.len() < run.segment;
            return;
        }
        self.runs.push(Run { to, source: None, ecn, start: at.start, len: at.len(), segment: at.len(), closed: false });
    }

    /// Whether the batch should leave now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.runs.len() >= RUNS || self.bytes >= BATCH_BYTES
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// System calls made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Sends everything; calls `failed` for each run that the system refused. `buffer` is where the datagrams stand.
    pub fn flush(&mut self, sockets: &Sockets, buffer: &[u8], mut failed: impl FnMut(SocketAddr, io::Error)) {
        let main = &sockets.main()[0];
        let mut runs = mem::take(&mut self.runs);
        find_sources(sockets, &mut runs);
        let mut done = 0;
        while done < runs.len() {
            let number = path::socket_of(runs[done].to);
            let together = runs[done..].iter().take(RUNS).take_while(|r| path::socket_of(r.to) == number);
            let end = done + together.count();
            if sockets.is_barred(number) {
                done = end;
                continue;
            }
            if number == path::TURN {
                for (to, at) in runs[done..end].iter().flat_map(|r| r.datagrams().map(|at| (r.to, at))) {
                    self.calls += 1;
                    if let Err(e) = sockets.send_by_turn(to, &buffer[at]) {
                        failed(to, e);
                    }
                }
                done = end;
                continue;
            }
            if number >= path::FIRST_STREAM {
                let datagrams = runs[done..end].iter().flat_map(|r| r.datagrams());
                self.calls += 1;
                let sent = sockets.stream(number).and_then(|s| s.send(datagrams.map(|at| &buffer[at])));
                if let Err(e) = sent {
                    failed(runs[done].to, e);
                }
                done = end;
                continue;
            }
            let scout = if number == 0 { Ok(None) } else { sockets.scout(number).map(Some) };
            let sent = match &scout {
                Ok(scout) => self.send_runs(scout.as_deref().unwrap_or(main), buffer, &runs[done..end]),
                Err(e) => Err(io::Error::from(e.kind())),
            };
            match sent {
                Ok(n) => done += n.max(1),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let socket = scout.as_ref().ok().and_then(Option::as_deref).unwrap_or(main);
                    let refused = self.send_otherwise(socket, buffer, runs[done], e, &mut failed);
                    if let (true, Some(source), to) = (refused, runs[done].source, runs[done].to) {
                        sockets.sources.refused(to, source);
                        runs[done..].iter_mut().filter(|run| run.to == to).for_each(|run| run.source = None);
                    }
                    done += 1;
                }
            }
        }
        self.runs = runs;
        self.runs.clear();
        self.bytes = 0;
        self.joined = main.offloads().send;
    }

    /// One `sendmmsg`. Returns how many runs left.
    fn send_runs(&mut self, socket: &UdpTransport, buffer: &[u8], runs: &[Run]) -> io::Result<usize> {
        self.calls += 1;
        let mut controls: [Control; RUNS] = [[0; CONTROL / 8]; RUNS];
        let mut names: [Option<socket2::SockAddr>; RUNS] = [const { None }; RUNS];
        // SAFETY: all-zero bytes are valid mmsghdrs and iovecs.
        let (mut headers, mut vectors): ([libc::mmsghdr; RUNS], [libc::iovec; RUNS]) = unsafe { mem::zeroed() };
        for (i, run) in runs.iter().enumerate() {
            let name = names[i].insert(socket.outward(run.to).into());
            vectors[i] =
                libc::iovec { iov_base: buffer[run.start..][..run.len].as_ptr().cast_mut().cast(), iov_len: run.len };
            let h = &mut headers[i].msg_hdr;
            h.msg_name = name.as_ptr().cast_mut().cast();
            h.msg_namelen = name.len();
            h.msg_iov = &raw mut vectors[i];
            h.msg_iovlen = 1;
            let mut control = Writer::new(&mut controls[i]);
            if run.len > run.segment {
                control.add(SOL_UDP, UDP_SEGMENT, run.segment as u16);
            }
            if run.ecn != 0 {
                match path::plain(run.to) {
                    SocketAddr::V4(_) => control.add(libc::IPPROTO_IP, libc::IP_TOS, libc::c_int::from(run.ecn)),
                    SocketAddr::V6(_) => control.add(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::c_int::from(run.ecn)),
                }
            }
            if let Some(source) = run.source {
                control.add_source(source);
            }
            let len = control.len();
            if len > 0 {
                h.msg_control = (&raw mut controls[i]).cast();
                h.msg_controllen = len;
            }
        }
        // SAFETY: each of the first `runs.len()` headers points to a name, a control area and a vector over
        // `buffer`, all of which outlive the call; sendmmsg only reads from them.
        let n =
            unsafe { libc::sendmmsg(socket.socket.as_raw_fd(), headers.as_mut_ptr(), runs.len() as libc::c_uint, 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// A run was refused. The reason may be its source, which may be no address of this host any more: then all of it leaves
    /// from another one, and true is returned. Otherwise its datagrams may still leave one by one.
    fn send_otherwise(
        &mut self,
        socket: &UdpTransport,
        buffer: &[u8],
        run: Run,
        mut error: io::Error,
        failed: &mut impl FnMut(SocketAddr, io::Error),
    ) -> bool {
        if run.source.is_some() && may_be_at_fault(&error) {
            match self.send_runs(socket, buffer, &[Run { source: None, ..run }]) {
                Ok(_) => return true,
                Err(e) => error = e,
            }
        }
        self.send_singly(socket, buffer, run, error, failed)
    }

    /// `EINVAL` also means that a segment is longer than the path to this address takes, which the kernel then fragments
    /// where the datagrams come one by one; the other errors speak of the device. Returns whether the source was refused.
    fn send_singly(
        &mut self,
        socket: &UdpTransport,
        buffer: &[u8],
        run: Run,
        error: io::Error,
        failed: &mut impl FnMut(SocketAddr, io::Error),
    ) -> bool {
        let code = error.raw_os_error();
        let about_segments = matches!(code, Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::ENOPROTOOPT));
        if !about_segments {
            failed(run.to, error);
            return false;
        }
        if matches!(code, Some(libc::EIO | libc::ENOPROTOOPT)) {
            socket.give_up_segments();
        }
        let mut singles: Vec<Run> =
            run.datagrams().map(|at| Run { start: at.start, len: at.len(), segment: at.len(), ..run }).collect();
        let mut done = 0;
        let mut patience = PATIENCE;
        let mut refused = false;
        while done < singles.len() {
            match self.send_runs(socket, buffer, &singles[done..singles.len().min(done + RUNS)]) {
                Ok(n) => done += n.max(1),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // `UdpTransport::send_whole` forbids fragments for a moment.
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) && patience > 0 => {
                    patience -= 1;
                    std::thread::yield_now();
                }
                Err(e) if singles[done].source.is_some() && may_be_at_fault(&e) => {
                    refused = true;
                    singles.iter_mut().for_each(|single| single.source = None);
                }
                Err(e) => {
                    failed(run.to, e);
                    return false;
                }
            }
        }
        refused
    }
}

/// Notes what each run leaves from. Neighbours often go to the same place.
fn find_sources(sockets: &Sockets, runs: &mut [Run]) {
    let view = sockets.sources.view();
    let mut last: Option<(SocketAddr, Option<Local>)> = None;
    for run in runs {
        let source = last.filter(|(to, _)| *to == run.to).map_or_else(|| view.of(run.to), |(_, source)| source);
        (run.source, last) = (source, Some((run.to, source)));
    }
}

/// Datagrams appended to a buffer of its own, to leave in one system call.
#[derive(Default)]
pub struct SendQueue {
    bytes: Vec<u8>,
    committed: usize,
    list: SendList,
}

impl SendQueue {
    /// A queue whose datagrams leave in runs, if the sockets can do that.
    #[must_use]
    pub fn new(sockets: &Sockets) -> Self {
        Self { list: SendList::new(sockets), ..Self::default() }
    }

    /// The buffer to append the next datagram to; close it with [`Self::commit`].
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes what was appended since the last commit a datagram to `to`, with this ECN field.
    pub fn commit(&mut self, to: SocketAddr, ecn: u8) {
        self.list.push(to, ecn, self.committed..self.bytes.len());
        self.committed = self.bytes.len();
    }

    /// Whether the batch should leave now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.list.is_full()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// System calls made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.list.calls()
    }

    /// Sends everything; calls `failed` for each run that the system refused.
    pub fn flush(&mut self, sockets: &Sockets, failed: impl FnMut(SocketAddr, io::Error)) {
        self.list.flush(sockets, &self.bytes, failed);
        self.bytes.clear();
        self.committed = 0;
    }
}
