//! Seeds to run: fixed ones, fresh ones, one that is asked for, and those that once found something.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::world::run;
use crate::fault::{Fault, PRESENT};

const FIXED: u64 = 2_000;
const FRESH: u64 = 500;

/// Runs so many seeds from `first` on over all processors.
fn run_seeds(first: u64, count: u64) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let offset = next.fetch_add(1, Ordering::Relaxed);
                if offset >= count {
                    return;
                }
                let seed = first.wrapping_add(offset);
                if catch_unwind(AssertUnwindSafe(|| run(seed, false))).is_err() {
                    panic!(
                        "seed {seed} failed: UPROAR_SIM_SEED={seed} cargo test --lib sim::tests::one -- --nocapture"
                    );
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().expect("a seed failed; the command that runs it again stands above");
        }
    });
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn fixed_seeds() {
    run_seeds(0, FIXED);
}

/// `UPROAR_SIM_RUNS` gives another number of them, `UPROAR_SIM_FROM` another first one.
#[test]
fn fresh_seeds() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let first = variable("UPROAR_SIM_FROM").unwrap_or(clock >> 10);
    let count = variable("UPROAR_SIM_RUNS").unwrap_or(FRESH);
    println!("{count} seeds from {first} on");
    run_seeds(first, count);
}

/// Runs the seed of `UPROAR_SIM_SEED`, and shows what happens.
#[test]
fn one() {
    let seed = variable("UPROAR_SIM_SEED").unwrap_or(1);
    println!("trace of seed {seed}: {:x}", run(seed, true));
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in 0..40 {
        let threads = [(); 2].map(|()| std::thread::spawn(move || run(seed, false)));
        let [first, second] = threads.map(|thread| thread.join().expect("the seed runs through"));
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Fails when none of so many seeds notices the fault.
fn is_caught(fault: Fault, within: u64) {
    PRESENT.set(Some(fault));
    let caught = (0..within).find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed, false))).is_err());
    PRESENT.set(None);
    println!("{fault:?} was caught by seed {caught:?}");
    assert!(caught.is_some(), "{fault:?} was not caught by {within} seeds");
}

macro_rules! faults {
    ($($name:ident: $fault:ident within $seeds:literal,)*) => {
        $(#[test]
        fn $name() {
            is_caught(Fault::$fault, $seeds);
        })*
    };
}

faults! {
    catches_a_forgotten_more: ForgottenMore within 20,
    catches_a_short_send: ShortSend within 50,
    catches_a_span_let_go: SpanLetGo within 200,
    catches_a_lost_buffer: LostBuffer within 100,
    catches_a_second_send: SecondSend within 20,
    catches_a_forgotten_member: ForgottenMember within 50,
    catches_a_connection_counted_twice: CountedTwice within 50,
    catches_a_lost_wake: LostWake within 50,
    catches_a_dropped_batch: DroppedBatch within 500,
    catches_publishers_never_resumed: NeverResumed within 500,
}
