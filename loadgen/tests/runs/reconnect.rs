//! Tests of the reconnect scenario: the server closes connections, and the clients return.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;

use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::server::{PROGRAM, finish, loadgen, prepare};

/// Starts a server that closes its first `clients` clients with `code` once all are connected. The server then drops
/// the next `refused` connections.
fn serve(clients: usize, code: CloseCode, refused: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let mut sockets = Vec::new();
        for (index, stream) in listener.incoming().flatten().enumerate() {
            if (clients..clients + refused).contains(&index) {
                continue;
            }
            let Ok(socket) = tungstenite::accept(stream) else { continue };
            sockets.push(socket);
            if index + 1 < clients {
                continue;
            }
            for mut socket in sockets.drain(..) {
                if index + 1 == clients {
                    let _ = socket.close(Some(CloseFrame { code, reason: "".into() }));
                }
                thread::spawn(move || while !matches!(socket.read(), Err(_) | Ok(Message::Binary(_))) {});
            }
        }
    });
    address
}

#[test]
fn closed_connections_return_after_failed_attempts() {
    let arguments = "reconnect -c 6 --threads 2 --first-delay 10ms --most-delay 100ms --duration 30s";
    let (output, figures) = loadgen(serve(6, CloseCode::Away, 4), "reconnect", arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let returns = &figures["returns"];
    for (key, count) in [("closed", 6), ("back", 6), ("failed_attempts", 4)] {
        assert_eq!(returns[key], count, "{key}: {returns}");
    }
    assert!(returns["all_back_seconds"].is_number(), "{returns}");
    let steps = returns["per_100_ms"].as_array().expect("a curve");
    for key in ["closed", "back"] {
        let sum: u64 = steps.iter().map(|step| step[key].as_u64().expect("a count")).sum();
        assert_eq!(sum, 6, "{key}: {returns}");
    }
    assert_eq!(figures["connections"]["opened"], 12);
}

#[test]
fn an_end_that_is_not_a_shutdown_is_a_fault() {
    let arguments = "reconnect -c 3 --threads 1 --first-delay 10ms --duration 30s";
    let (output, figures) = loadgen(serve(3, CloseCode::Error, 0), "expelled", arguments);
    assert_eq!(output.status.code(), Some(1), "{figures}");
    assert_eq!(figures["returns"]["back"], 3);
    assert!(figures["connections"]["ended"].to_string().contains("1011"), "{figures}");
}

#[test]
fn closed_connections_return_to_another_server() {
    let (first, second) = (serve(4, CloseCode::Away, 0), serve(0, CloseCode::Away, 0));
    let arguments = format!("reconnect -c 4 --first-delay 10ms --duration 30s --then ws://{second}/");
    let run = prepare(Command::new(PROGRAM), first, "moved", &arguments);
    let (output, figures) = finish("moved", run);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(figures["returns"]["back"], 4);
    assert_eq!(figures["options"]["then"], format!("ws://{second}/"));
}
