//! A small WebSocket server for tests, with a fault of choice, and functions that run loadgen against it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tungstenite::Message;

/// The mode of the test server: who receives a message.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Echo mode: the server returns each message to its sender.
    Echo,
    /// Relay mode: the server sends each message to all clients.
    Relay,
    /// Chat mode: the server sends a notice and the message to all clients, with the sender's name before the message.
    Chat,
}

/// A fault of the test server.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The server drops the seventh message.
    Drop,
    /// The server sends the seventh message twice.
    Duplicate,
    /// The server sends the seventh message after the eighth message.
    Reorder,
    /// The server alters one byte of the seventh message.
    Corrupt,
    /// The server sends the seventh message in a binary frame.
    Binary,
    /// The server delays each message by this time.
    Delay(Duration),
    /// The server pauses for this time before the seventh message.
    Stall(Duration),
    /// The server sends a close frame to the sender of the seventh message, instead of the message.
    Close,
}

enum RoomEvent {
    Joined(usize, TcpStream),
    Message(usize, String),
    Left(usize),
}

/// Starts a test server that runs until the test process ends. Returns the server's listen address.
pub(crate) fn serve(mode: Mode, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    serve_on(listener, mode, fault);
    address
}

/// Starts a test server on `listener`.
pub(crate) fn serve_on(listener: TcpListener, mode: Mode, fault: Fault) {
    let (events, room) = channel();
    thread::spawn(move || {
        for (client, stream) in listener.incoming().flatten().enumerate() {
            let events = events.clone();
            thread::spawn(move || serve_client(client, stream, &events));
        }
    });
    thread::spawn(move || run_room(mode, fault, &room));
}

/// Reads messages from one client and hands them to the room, until the client leaves.
fn serve_client(client: usize, stream: TcpStream, events: &Sender<RoomEvent>) {
    stream.set_nodelay(true).expect("it is a TCP socket");
    let writer = stream.try_clone().expect("descriptors are left");
    // A client that has the handshake's answer must be in the room. So the client joins before the server reads the
    // request.
    if events.send(RoomEvent::Joined(client, writer)).is_err() {
        return;
    }
    if let Ok(mut socket) = tungstenite::accept(stream) {
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                let _ = events.send(RoomEvent::Message(client, text.to_string()));
            }
        }
        let _ = socket.flush();
    }
    let _ = events.send(RoomEvent::Left(client));
}

fn run_room(mode: Mode, fault: Fault, events: &Receiver<RoomEvent>) {
    let mut members: Vec<(usize, TcpStream)> = Vec::new();
    let mut held: Option<(usize, String)> = None;
    let mut count = 0;
    for event in events {
        match event {
            RoomEvent::Joined(client, stream) => members.push((client, stream)),
            RoomEvent::Left(client) => members.retain(|(member, _)| *member != client),
            RoomEvent::Message(client, text) => {
                count += 1;
                if let Fault::Delay(delay) = fault {
                    thread::sleep(delay);
                }
                let seventh = count == 7;
                let mut send = |opcode, client, text: &str| {
                    for (member, stream) in &mut members {
                        if mode == Mode::Chat {
                            let line = format!("User #{client} (1): {text}");
                            let _ = stream.write_all(&frame(1, b"* somebody: is typing"));
                            let _ = stream.write_all(&frame(opcode, line.as_bytes()));
                        } else if mode == Mode::Relay || *member == client {
                            let _ = stream.write_all(&frame(opcode, text.as_bytes()));
                        }
                    }
                };
                match fault {
                    Fault::Drop if seventh => continue,
                    Fault::Duplicate if seventh => send(1, client, &text),
                    Fault::Reorder if seventh => {
                        held = Some((client, text));
                        continue;
                    }
                    Fault::Corrupt if seventh => {
                        let last = if text.ends_with('x') { "y" } else { "x" };
                        send(1, client, &format!("{}{last}", &text[..text.len() - 1]));
                        continue;
                    }
                    Fault::Binary if seventh => {
                        send(2, client, &text);
                        continue;
                    }
                    Fault::Stall(time) if seventh => thread::sleep(time),
                    Fault::Close if seventh => {
                        send(8, client, "lagged");
                        continue;
                    }
                    _ => {}
                }
                send(1, client, &text);
                if let Some((client, text)) = held.take() {
                    send(1, client, &text);
                }
            }
        }
    }
}

/// Encodes a frame of the server. In a close frame, the code 1013 precedes `payload`.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let code = if opcode == 8 { &1013u16.to_be_bytes()[..] } else { &[] };
    let payload = [code, payload].concat();
    let mut frame = vec![0x80 | opcode];
    if payload.len() < 126 {
        frame.push(payload.len() as u8);
    } else {
        frame.push(126);
        frame.extend((payload.len() as u16).to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Runs loadgen with `arguments` against the server at `address`, by default without warm-up. Returns the process
/// output and the JSON figures.
pub(crate) fn loadgen(address: SocketAddr, name: &str, arguments: &str) -> (Output, Value) {
    finish(name, prepare(Command::new(PROGRAM), address, name, arguments))
}

/// The path of the loadgen program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_loadgen");

/// Runs loadgen with `url` and `arguments`. Returns the process output and the JSON figures.
pub(crate) fn run(url: &str, name: &str, arguments: &str) -> (Output, Value) {
    let mut command = Command::new(PROGRAM);
    command.args(arguments.split_whitespace()).args(["--url", url, "--json"]).arg(json_path(name));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    finish(name, child.expect("the program can be started"))
}

/// Starts `command` with `arguments` and with pipes for its output. [`finish`] reads the output and the JSON figures.
pub(crate) fn prepare(mut command: Command, address: SocketAddr, name: &str, arguments: &str) -> Child {
    command.args(arguments.split_whitespace());
    if !arguments.contains("--warmup") {
        command.args(["--warmup", "0"]);
    }
    command.args(["--url", &format!("ws://{address}/room/bench"), "--json"]);
    command.arg(json_path(name)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program can be started")
}

/// Waits for the end of the run `name`. Returns the process output and the JSON figures.
pub(crate) fn finish(name: &str, run: Child) -> (Output, Value) {
    let output = run.wait_with_output().expect("the program was started");
    let figures = std::fs::read_to_string(json_path(name)).ok();
    let _ = std::fs::remove_file(json_path(name));
    let figures = figures.and_then(|text| serde_json::from_str(&text).ok());
    (output, figures.unwrap_or(Value::Null))
}

fn json_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"))
}
