//! Runs of loadgen against small test servers, a correct server and servers with one fault, and against uproar.

mod compare;
mod compression;
mod ends;
mod faults;
mod hints;
mod processes;
mod publish;
mod pusher;
mod reconnect;
mod requests;
mod scenarios;
mod server;
mod tls;
mod urls;
