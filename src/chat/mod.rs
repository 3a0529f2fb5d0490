//! Floor 4: the chat: signed messages that converge whatever order they come in, and the authority that moderates them. No sockets, no
//! files and no time of its own.

mod authority;
mod bits;
mod body;
mod clock;
mod envelope;
mod replica;
pub mod sealed;
mod signal;
pub mod sim;
#[cfg(test)]
mod tests;
mod view;

/// Messages of the protocol as they travel.
#[allow(missing_docs)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/aegisray.chat.v1.rs"));
}

pub use authority::{Authority, Standing};
pub use body::{Ban, Body, Channel, Kind, MAX_NAME, Role, Seal, check_names, open_name, payload_of};
pub use clock::{Clock, Hlc};
pub use envelope::{DeviceKey, Draft, Head, Id, Invalid, MAX_PAYLOAD, Message, check_key, verify_all};
pub use replica::{Acts, Author, Replica, Taken};
pub use signal::{LIFE_MS, Signal};
pub use view::{Entry, Shown, Timeline, View, forks};
