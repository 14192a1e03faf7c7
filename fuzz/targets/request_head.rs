//! Fuzz target: a valid or invalid request head, cut into reads at any byte.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (cuts, head) = uproar_fuzz::cuts(input);
    uproar_fuzz::check_head(&cuts, head);
});
