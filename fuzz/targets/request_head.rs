//! A request head, valid or not, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (cuts, head) = uproar_fuzz::cuts(input);
    uproar_fuzz::check_head(&cuts, head);
});
