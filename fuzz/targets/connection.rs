//! Several connections to one shard's hub: input, speed of reading and ways to disconnect.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uproar_fuzz::Clients::new().run(input));
