//! Requests to other servers: an HTTP client ([`Client`]), and the delivery of events to an endpoint ([`Delivery`]).
//!
//! The client blocks, so it runs on threads of its own, which start only when a feature needs them. A shard hands an event
//! to a bounded queue and never waits.

mod client;
mod delivery;
mod retry;
mod trust;
mod url;

pub(crate) use client::{Client, Fetched, SendError};
pub(crate) use delivery::{Batch, Counts, Delivery, Format, Prepared, Target};
pub(crate) use retry::Backoff;
pub(crate) use trust::{Trust, certificates};
pub use url::Url;
