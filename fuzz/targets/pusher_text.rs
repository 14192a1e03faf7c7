//! Fuzz target: the names of channels, the users, the socket identifiers and the data of requests that clients of the Pusher
//! protocol send.
#![no_main]

use uproar::app::check_client_text;

libfuzzer_sys::fuzz_target!(|input: &str| check_client_text(input));
