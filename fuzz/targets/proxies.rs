//! Fuzz target: client addresses from proxies. The first byte selects a PROXY header, `X-Forwarded-For` or `Forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&kind, input)) = input.split_first() else { return };
    match kind % 3 {
        0 => uproar_fuzz::judge_proxy_header(input),
        1 => uproar_fuzz::judge_usual_hops(input),
        _ => uproar_fuzz::judge_forwarded_hops(input),
    }
});
