//! The frames of an open connection, cut anywhere. The first byte chooses the limit of a message.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&limit, input)) = input.split_first() else { return };
    let (cuts, stream) = uproar_fuzz::cuts(input);
    uproar_fuzz::judge_frames([10, 125, 300, 70_000][usize::from(limit % 4)], &cuts, stream);
});
