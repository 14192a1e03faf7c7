//! Runs of the program against small servers: one that does everything right, and those that do one thing wrong.

mod compare;
mod compression;
mod faults;
mod processes;
mod reconnect;
mod scenarios;
mod server;
