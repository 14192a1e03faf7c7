//! Several connections to one shard's hub: what they send and when, how fast they read, how they go.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uproar_fuzz::Clients::new().run(input));
