//! A peer that has nothing but sessions: it hears what others say in handshakes, and sends what no node would.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use aegisray::{
    crypto::{Cipher, Rng},
    identity::{Admission, Identity, Invite, InviteKey, Network, RecordContent, RecordSource, Refusal, Verify as _},
    lab::{
        daemon::wait_for,
        topology::{Host, Internet},
    },
    session::{Admitted, Event, Gatekeeper, Outgoing, PROVEN_TRIES, Sessions, Transport, Via},
    types::Instant,
    wire::{
        frame::{self, Kind},
        packet::{self, Datagram},
        proto::{Echo, HandshakePayload},
    },
};

use super::{
    capture::Recorder,
    craft::forge,
    harness::{Dir, PATIENCE, need_route},
    hostile::{PORT, id_of, identity, network_of, unix},
    world::{Strict, place, public, v4},
};

type Heard = Arc<Mutex<Vec<HandshakePayload>>>;

/// Lets everybody in, and keeps what they say.
struct Ear {
    network: Network,
    heard: Heard,
}

impl Gatekeeper for Ear {
    fn admit(&mut self, payload: &HandshakePayload, _: &[u8; 32], _: &[u8]) -> Result<Admitted, Refusal> {
        self.heard.lock().unwrap().push(payload.clone());
        let peer = self.network.verify(&payload.announcement, RecordSource::Bytes(&payload.record))?;
        Ok(Admitted { peer, invitation: None })
    }
}

pub struct Bare {
    stop: Arc<AtomicBool>,
    heard: Heard,
    sessions: Arc<Mutex<Vec<Arc<Transport>>>>,
    send: Sender<(SocketAddr, Option<Vec<u8>>)>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Bare {
    /// Answers handshakes at the mesh's port as who has `certificate`; shows `admission` in its own ones.
    pub fn start(
        host: &Host,
        at: Ipv4Addr,
        network: Network,
        key: Identity,
        (certificate, admission): (Vec<u8>, Option<Admission>),
    ) -> Self {
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Heard::default());
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let (send, to_send) = mpsc::channel::<(SocketAddr, Option<Vec<u8>>)>();
        let (stopped, made, heard_in) = (Arc::clone(&stop), Arc::clone(&sessions), Arc::clone(&heard));
        let thread = host.ns.spawn(move || {
            let socket = UdpSocket::bind((at, PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(2)))?;
            let start = std::time::Instant::now();
            let now = || Instant(start.elapsed().as_micros() as u64 + 1);
            let rng = Rng::from_seed(aegisray::host::random()?);
            let mut own = Sessions::new(network.clone(), &key, &Cipher::all_here(), rng, now());
            let content = RecordContent { name: "bare".into(), boot: 1, certificate, ..RecordContent::default() };
            let announced = key.announce(&network, &content, unix() as u32, 7200).map_err(io::Error::other)?;
            own.set_own(&announced, admission);
            let mut ear = Ear { network, heard: heard_in };
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                while let Ok((to, datagram)) = to_send.try_recv() {
                    match datagram {
                        Some(datagram) => drop(socket.send_to(&datagram, to)),
                        None => own.connect(now(), Via::Direct(to), None, PROVEN_TRIES),
                    }
                }
                if let Ok((n, from)) = socket.recv_from(&mut buffer)
                    && let Ok(Datagram::Handshake(fragment)) = packet::parse(&buffer[..n])
                {
                    own.handle_handshake(now(), (Via::Direct(from), None), &fragment, &mut ear);
                }
                if own.poll_timeout().is_some_and(|due| due <= now()) {
                    own.handle_timeout(now());
                }
                while let Some(Outgoing { via, bytes: datagram, .. }) = own.poll_transmit() {
                    if let Via::Direct(to) = via {
                        let _ = socket.send_to(&datagram, to);
                    }
                }
                while let Some(event) = own.poll_event() {
                    if let Event::Established { outcome, .. } = event {
                        made.lock().unwrap().push(outcome.transport);
                    }
                }
            }
            Ok(())
        });
        Self { stop, heard, sessions, send, thread: Some(thread) }
    }

    /// The payloads that others have shown, since the last call.
    pub fn heard(&self) -> Vec<HandshakePayload> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    /// A session with whoever answers at `to`.
    fn connect(&self, to: SocketAddr) -> Option<Arc<Transport>> {
        self.send.send((to, None)).unwrap();
        wait_for(PATIENCE, || self.sessions.lock().unwrap().last().cloned())
    }

    fn send(&self, to: SocketAddr, datagram: Vec<u8>) {
        self.send.send((to, Some(datagram))).unwrap();
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Who bears an invite and never takes its certificate sends through the inviter to another member.
pub fn relays() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let strict = Strict::start(&dir, &mut net, "");
    let [member_host, guest_host] = [3, 4].map(|n| public(&mut net, n));
    let member = strict.member(&dir, &member_host, "member", &[]);
    need_route(&strict.root, "member");
    let invite = Invite::from_token(&strict.invite(&["--group", "guests"]), unix()).unwrap();
    let admission = Admission { inviter: invite.inviter.unwrap(), key: InviteKey::derive(&invite.admission.unwrap()) };
    let key = identity(3);
    let me = key.id();
    let guest = Bare::start(&guest_host, v4(4), network_of(&strict.root), key, (Vec::new(), Some(admission)));
    let recorder = Recorder::start(&member_host);
    let root = SocketAddr::V4(place(2));
    let session = guest.connect(root);
    let session = session.expect("the bearer of an invite gets a session");
    let mut hello = Vec::new();
    session.seal(&frame::encode(Kind::Echo(Echo::default())), &mut hello);
    guest.send(root, hello);
    std::thread::sleep(Duration::from_millis(300));
    let inside = forge(&network_of(&strict.root), &identity(4), 1, |_| {}).record;
    for _ in 0..50 {
        let hop = session.seal_hop(32, id_of(&member).tag(), me.tag());
        guest.send(root, [&hop[..], &inside].concat());
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
    let relayed = recorder.take().into_iter().filter(|s| s.to == place(3) && s.body.ends_with(&inside)).count();
    assert_eq!(relayed, 0, "the inviter has relayed for a guest");
    "0 of 50 datagrams relayed".to_owned()
}
