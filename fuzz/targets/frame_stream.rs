//! Fuzz target: the frames of an open connection, cut into reads at any byte. The first byte selects the maximum
//! message length.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&limit, input)) = input.split_first() else { return };
    let (cuts, stream) = uproar_fuzz::cuts(input);
    uproar_fuzz::check_frames([10, 125, 300, 70_000][usize::from(limit % 4)], &cuts, stream);
});
