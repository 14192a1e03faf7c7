//! What proxies say of their clients. The first byte chooses: a PROXY header, `X-Forwarded-For` or `Forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&kind, said)) = input.split_first() else { return };
    match kind % 3 {
        0 => uproar_fuzz::judge_proxy_header(said),
        1 => uproar_fuzz::judge_usual_hops(said),
        _ => uproar_fuzz::judge_forwarded_hops(said),
    }
});
