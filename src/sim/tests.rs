//! Runs of the simulation: fixed seeds, fresh seeds, one seed of the user's choice, and runs with an injected fault.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::fault::Fault;
use super::world::{
    Outcome, run, run_in_many_rooms, run_pusher, run_with_fault, run_with_reloads, run_with_sessions,
};

const FIXED: u64 = 2_000;
const FRESH: u64 = 500;

/// Environment variable with the seed for [`COMMAND`], which runs one seed again.
const REPLAY: &str = "UPROAR_SIM_SEED";
const COMMAND: &str = "cargo test --lib sim::tests::one -- --nocapture";

/// Runs `count` seeds of the simulation, from seed `first` on, on all processors.
fn run_seeds(first: u64, count: u64) -> Vec<Outcome> {
    let replay = |seed| format!("{REPLAY}={seed} {COMMAND}");
    run_seeds_with(|seed| run(seed, false), replay, first, count)
}

/// Runs `count` seeds with `run`, from seed `first` on, on all processors. `replay` returns the command that runs a
/// seed again.
fn run_seeds_with(
    run: impl Fn(u64) -> Outcome + Sync,
    replay: impl Fn(u64) -> String + Sync,
    first: u64,
    count: u64,
) -> Vec<Outcome> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            let mut outcomes = Vec::new();
            loop {
                let offset = next.fetch_add(1, Ordering::Relaxed);
                if offset >= count {
                    return outcomes;
                }
                let seed = first.wrapping_add(offset);
                let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
                outcomes.push(outcome.unwrap_or_else(|_| panic!("seed {seed} failed; {}", replay(seed))));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|outcomes| outcomes.expect("a seed failed; its command stands above")).collect()
    })
}

/// Returns a function that returns the command with which the test `name` runs a single seed.
fn replay(name: &str) -> impl Fn(u64) -> String {
    move |seed| format!("UPROAR_SIM_FROM={seed} UPROAR_SIM_RUNS=1 cargo test --lib sim::tests::{name}")
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[test]
fn fixed_seeds() {
    let outcomes = run_seeds(0, FIXED);
    // The fixed seeds prove something only if most rare events happen with some of them.
    let seeds_with =
        |count: fn(&Outcome) -> u64| outcomes.iter().filter(|outcome| count(outcome) > 0).count();
    let often = [
        ("heard messages", seeds_with(|outcome| outcome.heard)),
        ("read compressed messages", seeds_with(|outcome| outcome.inflated)),
        ("sent compressed messages", seeds_with(|outcome| outcome.deflated)),
        ("found no buffer", seeds_with(|outcome| outcome.starved)),
        ("paused", seeds_with(|outcome| outcome.paused)),
        ("lagged", seeds_with(|outcome| outcome.totals.lagged)),
        ("broke the protocol", seeds_with(|outcome| outcome.totals.failed)),
        ("panicked", seeds_with(|outcome| outcome.totals.panics)),
        ("were refused", seeds_with(|outcome| outcome.totals.refused)),
        ("paused clients for memory", seeds_with(|outcome| outcome.totals.memory_pauses)),
        ("found a mailbox full", seeds_with(|outcome| outcome.totals.mailbox_full)),
        ("published from outside", seeds_with(|outcome| outcome.from_outside)),
        ("found an entrance full", seeds_with(|outcome| outcome.full)),
        ("got HTTP responses", seeds_with(|outcome| outcome.answered)),
        ("got deferred responses", seeds_with(|outcome| outcome.answered_later)),
    ];
    println!("{often:?}");
    for (what, seeds) in often {
        assert!(seeds >= 50, "{seeds} of {FIXED} seeds {what}");
    }
}

/// Runs fresh seeds each time. `UPROAR_SIM_RUNS` sets the number of seeds, `UPROAR_SIM_FROM` the first seed.
#[test]
fn fresh_seeds() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let first = variable("UPROAR_SIM_FROM").unwrap_or(clock >> 10);
    let count = variable("UPROAR_SIM_RUNS").unwrap_or(FRESH);
    println!("{count} seeds from {first} on");
    run_seeds(first, count);
}

/// Runs seeds with settings that change during the run.
#[test]
fn seeds_with_reloads() {
    let first = variable("UPROAR_SIM_FROM").unwrap_or(0);
    let count = variable("UPROAR_SIM_RUNS").unwrap_or(FRESH);
    let outcomes = run_seeds_with(run_with_reloads, replay("seeds_with_reloads"), first, count);
    let heard = outcomes.iter().filter(|outcome| outcome.heard > 0).count() as u64;
    println!("{heard} of {count} seeds heard messages");
    assert!(heard > 0 || count < FRESH);
}

/// Runs seeds with clients in many rooms. The variables of [`fresh_seeds`] set the number of seeds and the first one.
#[test]
fn seeds_with_many_rooms() {
    let first = variable("UPROAR_SIM_FROM").unwrap_or(0);
    let count = variable("UPROAR_SIM_RUNS").unwrap_or(FRESH);
    let run = |seed| run_in_many_rooms(seed, None);
    let outcomes = run_seeds_with(run, replay("seeds_with_many_rooms"), first, count);
    let seeds_with =
        |count: fn(&Outcome) -> u64| outcomes.iter().filter(|outcome| count(outcome) > 0).count();
    let often = [
        ("heard messages", seeds_with(|outcome| outcome.heard)),
        ("compared members", seeds_with(|outcome| outcome.compared)),
        ("reported occupancy", seeds_with(|outcome| outcome.occupancies)),
        ("reported members", seeds_with(|outcome| outcome.member_reports)),
        ("sent to users", seeds_with(|outcome| outcome.to_users)),
        ("compared users", seeds_with(|outcome| outcome.compared_users)),
    ];
    println!("{often:?}");
    for (what, seeds) in often {
        assert!(seeds as u64 >= FRESH / 4 || count < FRESH, "{seeds} of {count} seeds {what}");
    }
}

/// Runs seeds with clients of the Pusher protocol. The variables of [`fresh_seeds`] set the number of seeds and the first
/// one.
#[test]
fn seeds_with_pusher() {
    let first = variable("UPROAR_SIM_FROM").unwrap_or(0);
    let count = variable("UPROAR_SIM_RUNS").unwrap_or(FRESH);
    let outcomes = run_seeds_with(|seed| run_pusher(seed, None), replay("seeds_with_pusher"), first, count);
    let with_lists = outcomes.iter().filter(|outcome| outcome.lists > 0).count() as u64;
    let lists: u64 = outcomes.iter().map(|outcome| outcome.lists).sum();
    println!("{with_lists} of {count} seeds got lists, {lists} in total");
    assert!(with_lists >= FRESH / 4 || count < FRESH);
}

/// Runs seeds with clients that return with their sessions. The variables of [`fresh_seeds`] set the number of seeds and the
/// first one.
#[test]
fn seeds_with_sessions() {
    let first = variable("UPROAR_SIM_FROM").unwrap_or(0);
    let count = variable("UPROAR_SIM_RUNS").unwrap_or(FRESH);
    let run = |seed| run_with_sessions(seed, None);
    let outcomes = run_seeds_with(run, replay("seeds_with_sessions"), first, count);
    let seeds_with =
        |count: fn(&Outcome) -> u64| outcomes.iter().filter(|outcome| count(outcome) > 0).count();
    let often = [
        ("heard messages", seeds_with(|outcome| outcome.heard)),
        ("continued sessions", seeds_with(|outcome| outcome.resumed)),
        ("sent messages again", seeds_with(|outcome| outcome.replayed)),
        ("missed messages", 5 * seeds_with(|outcome| outcome.missed)),
    ];
    println!("{often:?}");
    for (what, seeds) in often {
        assert!(seeds as u64 >= FRESH / 4 || count < FRESH, "{seeds} of {count} seeds {what}");
    }
}

/// Runs the seed in `UPROAR_SIM_SEED` and prints all events of the run.
#[test]
fn one() {
    let seed = variable(REPLAY).unwrap_or(1);
    println!("seed {seed}: {:#?}", run(seed, true));
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in 0..40 {
        let threads = [(); 2].map(|()| std::thread::spawn(move || run(seed, false)));
        let [first, second] = threads.map(|thread| thread.join().expect("the seed runs through"));
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Panics if no run with one of the first `within` seeds catches the fault.
fn is_caught(fault: Fault, within: u64) {
    let needs_rooms = matches!(
        fault,
        Fault::ForgottenExclusion
            | Fault::DroppedOccupancy
            | Fault::ReversedMemberReport
            | Fault::ForgottenUser
            | Fault::LostMember
    );
    let needs_sessions = matches!(
        fault,
        Fault::AckedEarly
            | Fault::AckedSent
            | Fault::LostEntry
            | Fault::ForgottenSessions
            | Fault::OverlappingRange
    );
    let run = |seed| match needs_rooms {
        _ if needs_sessions => run_with_sessions(seed, Some(fault)),
        _ if fault == Fault::EarlyStart => run_pusher(seed, Some(fault)),
        true => run_in_many_rooms(seed, Some(fault)),
        false => run_with_fault(seed, fault),
    };
    let is_noticed = |seed: &u64| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
    let caught = (0..within).find(is_noticed);
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
    catches_a_forgotten_more: ForgottenMore within 500,
    catches_a_short_send: ShortSend within 50,
    catches_a_span_let_go: SpanLetGo within 200,
    catches_a_lost_buffer: LostBuffer within 1_000,
    catches_a_second_send: SecondSend within 20,
    catches_a_forgotten_member: ForgottenMember within 50,
    catches_a_connection_counted_twice: CountedTwice within 50,
    catches_a_lost_wake: LostWake within 50,
    catches_a_dropped_batch: DroppedBatch within 500,
    catches_a_dropped_entry: DroppedEntry within 50,
    catches_a_forgotten_deferred_request: ForgottenRequest within 50,
    catches_entries_in_reverse: ReversedEntrance within 200,
    catches_publishers_never_resumed: NeverResumed within 500,
    catches_a_context_kept_though_promised_otherwise: KeptContext within 500,
    catches_stale_numbers_of_compressed_messages: StaleNumbers within 2_000,
    catches_a_stale_key_of_a_room: StaleKey within 500,
    catches_a_forgotten_exclusion: ForgottenExclusion within 200,
    catches_a_dropped_report_of_occupancy: DroppedOccupancy within 200,
    catches_a_reversed_report_of_a_member: ReversedMemberReport within 200,
    catches_forgotten_users: ForgottenUser within 200,
    catches_a_lost_member: LostMember within 200,
    catches_a_held_member_that_starts_early: EarlyStart within 200,
    catches_a_ping_that_acknowledges: AckedEarly within 200,
    catches_a_send_that_acknowledges: AckedSent within 200,
    catches_a_lost_entry_of_a_session: LostEntry within 200,
    catches_messages_not_kept_for_sessions: ForgottenSessions within 200,
    catches_a_range_that_overlaps_the_head: OverlappingRange within 200,
    catches_a_context_forgotten: ForgottenContext within 500,
    catches_memory_of_windows_lost: LostContext within 500,
}
