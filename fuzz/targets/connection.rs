//! Fuzz target: several clients of one shard's hub, with random input, reading speed and disconnects.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uproar_fuzz::Clients::new().run(input));
