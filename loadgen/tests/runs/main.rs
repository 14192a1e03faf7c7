//! Runs of the program against small servers: one that does everything right, and those that do one thing wrong.

mod faults;
mod scenarios;
mod server;
