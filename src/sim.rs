//! The simulation: whole shards with the io_uring backend, on a simulated kernel, in simulated time.
//!
//! One seed gives the network, the schedule of the shards, what the kernel makes of its freedom, and the clients
//! of many characters. The same seed gives the same run. Everything above [`crate::io::uring::Kernel`] is what
//! runs in production.

mod client;
mod deflate;
mod fault;
mod frames;
mod hearing;
mod kernel;
mod net;
mod random;
mod tests;
mod truth;
mod world;
