//! Fuzz target: the body of a request and the requests behind it, cut into reads at any byte. The first two bytes select
//! the form and the length of the body, and the maximum length.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&[form, max], input)) = input.split_first_chunk() else { return };
    let (cuts, stream) = uproar_fuzz::cuts(input);
    let (is_chunked, len) = (form % 2 == 0, usize::from(form / 2));
    uproar_fuzz::check_body(is_chunked, len, [0, 10, 100, 70_000][usize::from(max % 4)], &cuts, stream);
});
