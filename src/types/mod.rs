//! Floor 0: the newtypes that every other module speaks in.

mod bucket;
mod exit;
mod hash;
mod id;
mod label;
#[cfg(test)]
pub(crate) mod mutants;
pub mod path;
pub mod place;
mod prefix;
mod service;
mod sharded;
mod time;

pub use bucket::{Bucket, Buckets};
pub use exit::{ExitChoice, is_country};
pub use hash::{QuickMap, QuickState};
pub use id::{NodeId, NodeTag, ParseNodeIdError};
pub use label::{LabelError, MAX_LABEL, check_label, label_of_host, label_or_none};
pub use prefix::{IpPrefix, ParsePrefixError, SPECIAL4, SPECIAL6};
pub use service::{Service, ServiceKind};
pub use sharded::Sharded;
pub use time::{Duration, Instant, NEVER_SET, UnixTime, span, utc};

/// Sequence number of an origin's announcements. Larger is newer; it never wraps, because it starts from the
/// UNIX time in seconds and grows by one per announcement (RFC 8966 §3.2.1 uses 16 bits and wraps).
pub type SeqNo = u32;

/// Route metric: microseconds of expected one-way cost. Range 0 to [`INFINITY`] - 1; [`INFINITY`] is "unreachable".
pub type Metric = u32;

/// The metric of a retracted route: 16 seconds' worth of cost (RFC 8966 §3.5.4 calls for a small infinity).
pub const INFINITY: Metric = 16_000_000;

/// Adds a link cost to a metric, saturating at [`INFINITY`].
#[must_use]
pub fn metric_add(metric: Metric, cost: Metric) -> Metric {
    metric.saturating_add(cost).min(INFINITY)
}
