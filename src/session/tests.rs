//! Handshakes under random weather, and the refusals.

mod floods;

use proptest::{
    prelude::{ProptestConfig, prop_assert, prop_assert_eq},
    proptest,
};

use super::*;
use crate::{
    crypto::SigningKey,
    identity::{RecordContent, RecordSource, Verify},
    wire::packet::{self, Datagram},
};

struct Gate {
    network: Network,
    refuse: bool,
}

impl Gatekeeper for Gate {
    fn admit(&mut self, payload: &HandshakePayload, noise_static: &[u8; 32], _: &[u8]) -> Result<Admitted, Refusal> {
        let peer = self.network.verify(&payload.announcement, RecordSource::Bytes(&payload.record))?;
        if self.refuse {
            return Err(Refusal::NotAllowed);
        }
        if peer.record.noise_static != *noise_static {
            return Err(Refusal::StaticKeyMismatch);
        }
        Ok(Admitted { peer, invitation: None })
    }
}

struct End {
    sessions: Sessions,
    gate: Gate,
    identity: Identity,
    addr: SocketAddr,
    established: Vec<Arc<Transport>>,
    refused: Vec<Refusal>,
    timed_out: usize,
}

fn end(seed: u8, secret: &str, algorithm_seed: Option<u8>) -> End {
    let key = match algorithm_seed {
        Some(s) => SigningKey::ed25519_from_seed(&[s; 32]),
        None => SigningKey::generate(crate::crypto::Algorithm::Rsa2048).unwrap(),
    };
    let identity = Identity::new(key).unwrap();
    let network = Network::new("n", Some(secret), None, "100.64.0.0/16".parse().unwrap());
    let rng = Rng::from_seed([seed; 32]);
    let mut sessions = Sessions::new(network.clone(), &identity, &Cipher::all_here(), rng, Instant(0));
    let content = RecordContent { name: format!("end {seed}"), ..Default::default() };
    sessions.set_own(&identity.announce(&network, &content, 1, 600).unwrap(), None);
    End {
        sessions,
        gate: Gate { network, refuse: false },
        identity,
        addr: format!("192.0.2.{seed}:1").parse().unwrap(),
        established: vec![],
        refused: vec![],
        timed_out: 0,
    }
}

impl End {
    fn receive(&mut self, now: Instant, from: SocketAddr, bytes: Vec<u8>) {
        self.receive_by(now, (Via::Direct(from), None), bytes);
    }

    fn receive_by(&mut self, now: Instant, way: Way, mut bytes: Vec<u8>) {
        match packet::parse(&bytes) {
            Ok(Datagram::Handshake(f)) => {
                self.sessions.handle_handshake(now, way, &f, &mut self.gate);
            }
            Ok(Datagram::Cookie { receiver, body }) => self.sessions.handle_cookie(now, receiver, body),
            Ok(Datagram::Data { receiver, counter }) => {
                let transport = self.established.iter().find(|t| t.local_index == receiver).cloned();
                if transport.is_some_and(|t| t.open(counter, &mut bytes).is_ok()) {
                    self.sessions.confirmed(receiver);
                }
            }
            _ => {}
        }
        self.events();
    }

    fn events(&mut self) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                Event::Established { outcome, .. } | Event::Claimed(outcome) => {
                    self.established.push(outcome.transport)
                }
                Event::TimedOut { .. } => self.timed_out += 1,
                Event::Refused(refusal, _) => self.refused.push(refusal),
            }
        }
    }
}

/// Runs two ends over a network that loses, duplicates and reorders; returns the virtual time that passed.
fn run(a: &mut End, b: &mut End, weather: &mut Rng, loss: f64, until: impl Fn(&End, &End) -> bool) -> Duration {
    let mut flying: Vec<(Instant, bool, Vec<u8>)> = Vec::new();
    let mut now = Instant(0);
    let mut data_due = Instant(0);
    for _ in 0..20_000 {
        for (to_b, end) in [(true, &mut *a), (false, &mut *b)] {
            let mut out: Vec<Vec<u8>> = Vec::new();
            while let Some(Outgoing { bytes, .. }) = end.sessions.poll_transmit() {
                assert!(bytes.len() <= 1200, "a handshake datagram of {} bytes", bytes.len());
                out.push(bytes);
            }
            if now >= data_due
                && let Some(t) = end.established.last()
            {
                let mut bytes = Vec::new();
                t.seal(b"\0probe", &mut bytes);
                out.push(bytes);
            }
            for bytes in out {
                for _ in 0..=u8::from(weather.chance(0.1)) {
                    if !weather.chance(loss) {
                        let delay = Duration::from_millis(5 + weather.below(60));
                        flying.push((now + delay, to_b, bytes.clone()));
                    }
                }
            }
        }
        if now >= data_due {
            data_due = now + Duration::from_millis(100);
        }
        if until(a, b) {
            return now.since(Instant(0));
        }
        now = now + Duration::from_millis(5);
        let (due, later): (Vec<_>, Vec<_>) = flying.into_iter().partition(|f| f.0 <= now);
        flying = later;
        for (_, to_b, bytes) in due {
            let (end, from) = if to_b { (&mut *b, a.addr) } else { (&mut *a, b.addr) };
            end.receive(now, from, bytes);
        }
        for end in [&mut *a, &mut *b] {
            end.sessions.handle_timeout(now);
            end.events();
        }
    }
    now.since(Instant(0))
}

fn agree(a: &End, b: &End) -> bool {
    a.established.iter().any(|x| b.established.iter().any(|y| x.local_index == y.remote_index))
}

fn connect(a: &mut End, b: &End, ik: bool) {
    let known = ik.then(|| (b.identity.id(), b.identity.noise_public()));
    a.sessions.connect(Instant(0), Via::Direct(b.addr), known, PROVEN_TRIES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn handshakes_survive_30_percent_loss_reordering_and_duplication(seed: [u8; 32], ik: bool, both: bool) {
        let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
        let mut weather = Rng::from_seed(seed);
        connect(&mut a, &b, ik);
        if both {
            connect(&mut b, &a, !ik);
        }
        let done = |a: &End, b: &End| agree(a, b) && a.sessions.pending() == 0;
        let took = run(&mut a, &mut b, &mut weather, 0.3, done);
        prop_assert!(agree(&a, &b), "no session after {took:?}");
        let (x, y) = a.established.iter()
            .find_map(|x| Some((x, b.established.iter().find(|y| x.local_index == y.remote_index)?))).unwrap();
        prop_assert_eq!(x.remote_index, y.local_index);
        let mut datagram = Vec::new();
        x.seal(b"hello", &mut datagram);
        let Ok(Datagram::Data { counter, .. }) = packet::parse(&datagram) else { panic!() };
        let again = datagram.clone();
        prop_assert_eq!(y.open(counter, &mut datagram).map(|r| datagram[r].to_vec()), Ok(b"hello".to_vec()));
        prop_assert_eq!(y.open(counter, &mut again.clone()), Err(Rejected::Replayed));
        let mut forged = again;
        forged[20] ^= 1;
        prop_assert_eq!(y.open(counter, &mut forged), Err(Rejected::Forged));
    }
}

#[test]
fn rsa_identities_fit_and_the_wrong_secret_gets_no_byte_back() {
    let (mut a, mut b) = (end(1, "s", None), end(2, "s", None));
    let mut weather = Rng::from_seed([0; 32]);
    connect(&mut a, &b, false);
    run(&mut a, &mut b, &mut weather, 0.0, agree);
    assert!(agree(&a, &b));

    let mut stranger = end(3, "another secret", Some(3));
    connect(&mut stranger, &b, true);
    while let Some(Outgoing { bytes, .. }) = stranger.sessions.poll_transmit() {
        b.receive(Instant(1), stranger.addr, bytes);
    }
    assert!(b.sessions.poll_transmit().is_none(), "not even an error");
    assert!(b.sessions.counters.bad_mac >= 1);
}

#[test]
fn a_refused_peer_gets_no_session_and_is_counted() {
    for ik in [true, false] {
        let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
        b.gate.refuse = true;
        connect(&mut a, &b, ik);
        let mut weather = Rng::from_seed([0; 32]);
        run(&mut a, &mut b, &mut weather, 0.0, |a, b| a.timed_out > 0 || !b.refused.is_empty());
        assert!(b.established.is_empty());
        assert_eq!(b.refused.first(), Some(&Refusal::NotAllowed));
    }
}

#[test]
fn a_peer_that_is_not_the_expected_one_is_refused() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    let other = end(9, "s", Some(9));
    let known = Some((other.identity.id(), b.identity.noise_public()));
    a.sessions.connect(Instant(0), Via::Direct(b.addr), known, PROVEN_TRIES);
    run(&mut a, &mut b, &mut Rng::from_seed([0; 32]), 0.0, |a, _| a.timed_out > 0);
    assert_eq!(a.refused, [Refusal::UnexpectedNode]);
    assert!(a.established.is_empty());
}

#[test]
fn replayed_first_messages_are_counted_and_not_answered() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    connect(&mut a, &b, true);
    let recorded: Vec<_> = std::iter::from_fn(|| a.sessions.poll_transmit()).map(|o| o.bytes).collect();
    for bytes in &recorded {
        b.receive(Instant(0), a.addr, bytes.clone());
    }
    assert_eq!(b.established.len(), 1);
    while b.sessions.poll_transmit().is_some() {}
    for bytes in &recorded {
        b.receive(Instant(9), "198.51.100.7:9".parse().unwrap(), bytes.clone());
    }
    assert_eq!(b.sessions.counters.replayed, 1);
    assert!(b.sessions.poll_transmit().is_none());
    assert_eq!(b.established.len(), 1);
}

/// Under load, too, a recording gets not even a cookie, as a fragment of it or whole.
#[test]
fn recordings_get_no_cookie_under_load() {
    let (mut a, mut b) = (end(1, "s", None), end(2, "s", Some(2)));
    connect(&mut a, &b, true);
    let recorded: Vec<_> = std::iter::from_fn(|| a.sessions.poll_transmit()).map(|o| o.bytes).collect();
    assert!(recorded.len() > 1, "one fragment only");
    recorded.iter().for_each(|bytes| b.receive(Instant(0), a.addr, bytes.clone()));
    while !b.sessions.cookies.demands(Instant(9)) {}
    while b.sessions.poll_transmit().is_some() {}
    for port in 1..300 {
        for bytes in &recorded {
            b.receive(Instant(9), SocketAddr::from(([198, 51, 100, 7], port)), bytes.clone());
        }
    }
    assert!(b.sessions.poll_transmit().is_none());
    assert_eq!((b.sessions.counters.cookies_sent, b.sessions.counters.replayed), (0, 299));
}

#[test]
fn under_load_cookies_are_demanded_and_honest_peers_still_get_in() {
    let mut b = end(2, "s", Some(2));
    for i in 0..300u32 {
        let mut flood = end(3, "s", Some(3));
        flood.sessions.rng = Rng::from_seed([(i % 251) as u8; 32]);
        flood.addr.set_port(1000 + i as u16);
        connect(&mut flood, &b, false);
        while let Some(Outgoing { bytes, .. }) = flood.sessions.poll_transmit() {
            b.receive(Instant(u64::from(i)), flood.addr, bytes);
        }
    }
    assert!(b.sessions.counters.cookies_sent > 100);
    assert!(b.sessions.pending() <= MAX_HALF_OPEN + 256);
    while b.sessions.poll_transmit().is_some() {}
    let mut a = end(1, "s", Some(1));
    connect(&mut a, &b, true);
    run(&mut a, &mut b, &mut Rng::from_seed([0; 32]), 0.0, agree);
    assert!(agree(&a, &b));
}

#[test]
fn one_source_has_a_share_of_half_open_handshakes() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    let begin = |from: &mut End, b: &mut End, at: u64| {
        connect(from, b, false);
        while let Some(Outgoing { bytes, .. }) = from.sessions.poll_transmit() {
            b.receive(Instant(at), from.addr, bytes);
        }
    };
    begin(&mut a, &mut b, 0);
    for i in 1..80u8 {
        let mut flood = end(3, "s", Some(3));
        flood.sessions.rng = Rng::from_seed([i; 32]);
        flood.addr.set_port(u16::from(i));
        begin(&mut flood, &mut b, 60_000 * u64::from(i));
    }
    let has = |b: &End, addr| b.sessions.responders.keys().any(|(via, _)| *via == Via::Direct(addr));
    let flood = |port| SocketAddr::from(([192, 0, 2, 3], port));
    assert_eq!(b.sessions.responders.len(), 1 + MAX_HALF_OPEN_OF_ONE);
    assert!(has(&b, a.addr), "that of another source stays");
    assert!(!has(&b, flood(1)) && has(&b, flood(79)), "the oldest of the same source goes");
}

#[test]
fn half_open_state_expires() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    connect(&mut a, &b, false);
    while let Some(Outgoing { bytes, .. }) = a.sessions.poll_transmit() {
        b.receive(Instant(0), a.addr, bytes);
    }
    assert_eq!(b.sessions.pending(), 1);
    assert_eq!(b.sessions.poll_timeout(), Some(Instant(0) + HALF_OPEN_LIFE));
    b.sessions.handle_timeout(Instant(0) + HALF_OPEN_LIFE);
    assert_eq!((b.sessions.pending(), b.sessions.live.len()), (0, 0));
    for _ in 0..40 {
        let Some(next) = a.sessions.poll_timeout() else { break };
        a.sessions.handle_timeout(next);
        a.events();
    }
    assert_eq!((a.timed_out, a.sessions.live.len()), (1, 0));
}
