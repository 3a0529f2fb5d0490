//! For how long a NAT or a firewall remembers a flow that is idle (RFC 5780 §4.6): a socket speaks with a server and then
//! keeps silent; later another socket asks the server to answer to the first one's port.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::ask::Asker;
use crate::{crypto::HmacKey, wire::stun::Change};

/// The silences that are tried, in ascending order. Some NATs forget after 30 seconds; RFC 4787 §4.3 asks for two minutes,
/// which is why there is no longer one.
const SILENCES: [Duration; 3] = [Duration::from_secs(25), Duration::from_secs(50), Duration::from_secs(110)];
/// A flow that both ends have used for a while may be remembered for longer than one packet each way, as links are.
const FLOW: Duration = Duration::from_millis(2500);

/// The longest of 25, 50 and 110 s of silence after which a datagram still comes in; `None`: not even after the shortest,
/// or the server can't be asked so. Takes as long as they do, until `goes_on` says no, which is asked every now and then.
pub fn lifetime(server: SocketAddr, network: &HmacKey, goes_on: impl Fn() -> bool) -> io::Result<Option<Duration>> {
    let asker = || Asker::open(Some(network));
    let sleepers = [asker()?, asker()?, asker()?];
    let mut ports = [0; SILENCES.len()];
    for _ in 0..2 {
        for (sleeper, port) in sleepers.iter().zip(&mut ports) {
            let Some(answer) = sleeper.ask(server, Change::default()) else { return Ok(None) };
            *port = answer.mapped.port();
        }
        thread::sleep(FLOW);
    }
    let asleep = Instant::now() - FLOW;
    let mut longest = None;
    for ((silence, sleeper), port) in SILENCES.iter().zip(&sleepers).zip(ports) {
        while asleep.elapsed() < *silence {
            if !goes_on() {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(200));
        }
        if !asker()?.wakes(sleeper, server, port) {
            break;
        }
        longest = Some(*silence);
    }
    Ok(longest)
}
