//! Compressed messages, and messages that we compress. The first byte chooses the limit of a message.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&limit, input)) = input.split_first() else { return };
    let (cuts, stream) = uproar_fuzz::cuts(input);
    uproar_fuzz::judge_deflate([10, 125, 5_000, 70_000][usize::from(limit % 4)], &cuts, stream);
});
