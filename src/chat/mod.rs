//! Floor 5: the chat: signed messages that converge whatever order they come in, and the authority that moderates them. No sockets, no
//! files and no time of its own.

mod authority;
mod bits;
mod clock;
mod envelope;
mod replica;
pub mod sim;
#[cfg(test)]
mod tests;
mod view;

#[allow(missing_docs)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/aegisray.chat.v1.rs"));
}

pub use authority::{Authority, Standing};
pub use clock::{Clock, Hlc};
pub use envelope::{Ban, Body, DeviceKey, Draft, Id, Invalid, Kind, Message, Role, check_key, verify_all};
pub use replica::{Author, Replica, Taken};
pub use view::{Entry, Shown, Timeline, View, forks};
