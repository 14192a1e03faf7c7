//! Fuzz target: compressed messages of clients and of the server. The first byte selects the maximum message length.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&limit, input)) = input.split_first() else { return };
    let (cuts, stream) = uproar_fuzz::cuts(input);
    uproar_fuzz::check_deflate([10, 125, 5_000, 70_000][usize::from(limit % 4)], &cuts, stream);
});
