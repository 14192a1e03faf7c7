//! A request head, right or wrong, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (cuts, head) = uproar_fuzz::cuts(input);
    uproar_fuzz::judge_head(&cuts, head);
});
