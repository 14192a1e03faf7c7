//! The test suite of the backend contract, which every backend must pass.
//!
//! The tests of a backend fail when this machine cannot run the backend. Skipping the tests would hide an untested
//! backend.

mod accepting;
mod closing;
mod receiving;
mod rig;
mod sending;
mod waking;

/// Defines every test of the suite for one backend.
macro_rules! suite {
    ($backend:ident: $make:expr) => {
        mod $backend {
            suite!(@tests $make, accepting: peer_addresses, dual_stack_peer_is_ipv4, several_at_once,
                accepting_pauses_once, waiting_clients_are_accepted_later, stops_accepting,
                stops_accepting_what_is_shared, stops_listening_although_another_process_has_the_socket,
                slots_are_reused, two_listeners, workers_share_a_unix_socket);
            suite!(@tests $make, receiving: in_pieces, more_than_a_buffer, end_of_stream, data_before_the_end,
                reset_by_peer, pause_and_resume, paused_from_the_start, resume_right_after_pause,
                fewer_buffers_than_senders, all_senders_get_a_buffer_in_turn, silent_connections_delay_nobody,
                all_buffers_out_does_not_spin, bytes_can_be_changed, closed_while_waiting_for_a_buffer,
                resumed_while_waiting_for_a_buffer, ends_lose_no_buffers, many_connections_echo);
            suite!(@tests $make, sending: arrives, a_large_send_is_continued, sends_after_the_peers_end,
                shutdown_ends_one_direction, shutdown_waits_for_the_send, last_bytes_travel_with_the_fin,
                to_a_reset_peer, one_chunk_to_many, more_than_the_queue_holds, progress, nudged_while_closing,
                empty_span);
            suite!(@tests $make, closing: idle, with_a_send_in_flight, delivers_what_was_sent, reset_is_seen_as_one,
                reset_drops_unsent_bytes, after_failure, after_the_peers_end, ignores_calls_while_closing, many_at_once,
                dropped_with_everything_in_flight);
            suite!(@tests $make, waking: ends_an_endless_wait, between_prepare_and_poll, costs_nothing_when_awake,
                time_passes_without_events, rests_when_idle, many_times);
        }
    };
    (@tests $make:expr, $group:ident: $($test:ident),* $(,)?) => {
        mod $group {
            $(#[test]
            fn $test() {
                super::super::$group::$test($make);
            })*
        }
    };
}

suite!(epoll: crate::io::Epoll::new);
suite!(uring: crate::io::Uring::new);
suite!(uring_with_short_queue: crate::io::Uring::with_short_queue);
