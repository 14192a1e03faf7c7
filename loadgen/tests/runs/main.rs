//! Runs of loadgen against small test servers: a correct server, and servers with one fault.

mod compare;
mod compression;
mod ends;
mod faults;
mod hints;
mod processes;
mod reconnect;
mod requests;
mod scenarios;
mod server;
mod tls;
mod urls;
