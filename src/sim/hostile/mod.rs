//! Nodes that behave maliciously: which do, how, and what they have at hand.
//!
//! A hostile node is a member like the others: it runs the shipped node, with a certificate of its own, and speaks over
//! its real sessions and links. Beside that an injector says what the shipped code never would. It may also send
//! datagrams with any source address. Everything follows from the seed.

mod casting;
mod frames;
mod gossip;
mod hand;
mod impostor;
mod judge;
mod stage;
mod stream;
mod wire;

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

pub use judge::HostileReport;
pub(super) use stage::Stage;

use hand::Hand;

/// Which nodes are hostile, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many of the nodes: 1 to all but two.
    pub count: usize,
    /// Virtual time from the end of the convergence for which they are.
    pub length: Duration,
    /// They all behave in this way; `None`: each in two or three ways, by the seed.
    pub only: Option<Way>,
    /// They are hostile while the network still converges, too.
    pub early: bool,
}

impl Plan {
    /// `count` hostile nodes, half an hour long, in all ways.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { count, length: Duration::from_secs(1800), only: None, early: false }
    }
}

macro_rules! ways {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $make:expr,)*) => {
        /// A way to behave maliciously.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Way {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Way {
            /// All of them.
            pub const ALL: &'static [Way] = &[$(Way::$variant,)*];

            /// As the command line and the report name it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Way::$variant => $name,)*
                }
            }

            fn behaviour(self) -> Box<dyn Behaviour> {
                match self {
                    $(Way::$variant => Box::new($make),)*
                }
            }
        }
    };
}

ways! {
    /// Introduces NodeIds that nobody has, up to the last slot.
    Introductions "introductions" gossip::Introductions::default(),
    /// Changes its own record all the time, as large as it can be.
    Records "records" gossip::Records::default(),
    /// Hands over announcements that are junk, of somebody else, or old.
    Bodies "bodies" gossip::Bodies::default(),
    /// Asks for new sequence numbers of everybody, ever higher ones.
    Requests "requests" gossip::Requests::default(),
    /// Says that it is next to everybody, and drops what it then should relay.
    Lies "lies" gossip::Lies,
    /// Takes part in routing as it should, and drops what it should relay.
    Hole "hole" gossip::Hole { longer_than: 0 },
    /// The same, but lets short datagrams pass, so that what looks for life finds it.
    GreyHole "grey-hole" gossip::Hole { longer_than: 192 },
    /// Bytes of any kind in the place of control messages.
    Control "control" gossip::Control,
    /// Well-sealed frames of every kind, with anything in them.
    Frames "frames" frames::Frames,
    /// Hands certificates to whoever has not asked for one: junk, other nodes', old ones.
    Granted "granted" frames::Granted,
    /// Echo requests and trace queries without end.
    Echoes "echoes" frames::Echoes,
    /// Asks nodes to make holes towards hosts that have nothing to do with the mesh.
    Punches "punches" frames::Punches,
    /// IP packets with anything in them, and with other nodes' addresses as their source.
    Packets "packets" frames::Packets,
    /// Begins handshakes, from its own address and from others.
    Handshakes "handshakes" wire::Handshakes::default(),
    /// Begins handshakes by way of relays, in anybody's name.
    RelayedHandshakes "relayed-handshakes" wire::RelayedHandshakes::default(),
    /// Sends again what it has heard, to whom it was meant for and to others, from any address.
    Replays "replays" wire::Replays,
    /// Beacons and cookies.
    Beacons "beacons" wire::Beacons,
    /// Datagrams with anything in them.
    Datagrams "datagrams" wire::Datagrams,
    /// Has a key that derives another node's IPv4 address, and claims it.
    Address "address" impostor::Address::default(),
    /// Calls itself as others are called.
    Name "name" impostor::Name::default(),
    /// Announces other hosts' addresses as its own endpoints, ever other ones.
    Endpoints "endpoints" impostor::Endpoints::default(),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Way::ALL.iter().map(|w| w.name()).collect::<Vec<_>>().join(", ");
        Way::ALL.iter().copied().find(|w| w.name() == text).ok_or_else(|| format!("expected one of {}", all()))
    }
}

/// What a hostile node does in one way.
trait Behaviour {
    /// Does the next thing.
    fn act(&mut self, hand: &mut Hand<'_>);

    /// The time between two things, while a bout lasts.
    fn pause(&self) -> Duration;

    /// It goes on all the time instead of in bouts.
    fn is_steady(&self) -> bool {
        false
    }

    /// Whether a datagram of this many bytes that it should relay is dropped.
    fn swallows(&self, _bytes: usize) -> bool {
        false
    }
}
