//! The simulation: whole shards with the io_uring backend, on a simulated kernel, in simulated time.
//!
//! One seed decides the network, the schedule of the shards, the choices of the kernel, and the behaviour of the
//! clients. A seed always gives the same run. Everything above [`crate::io::uring::Kernel`] is production code.

mod asker;
mod client;
mod deflate;
mod fault;
mod frames;
mod hearing;
mod kernel;
mod lodge;
mod lounge;
mod net;
mod outside;
mod random;
mod returns;
mod tests;
mod truth;
mod users;
mod world;
