//! A small WebSocket server for one test, with one fault of choice, and a way to run the generator on it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tungstenite::Message;

/// Whom the server sends a message to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Its sender.
    Echo,
    /// Everybody.
    Relay,
    /// Everybody, with its sender's name in front and a notice before it.
    Chat,
}

/// What the server does wrong.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The seventh message is not sent.
    Drop,
    /// The seventh message is sent twice.
    Duplicate,
    /// The seventh message is sent after the eighth.
    Reorder,
    /// One byte of the seventh message is another.
    Corrupt,
    /// The seventh message is sent in a binary frame.
    Binary,
    /// Each message is sent so much later.
    Delay(Duration),
    /// Before the seventh message nothing is done for so long.
    Stall(Duration),
    /// The sender of the seventh message is closed instead.
    Close,
}

enum Event {
    Joined(usize, TcpStream),
    Said(usize, String),
    Left(usize),
}

/// Starts a server that lives until the test process ends.
pub(crate) fn serve(mode: Mode, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    serve_on(listener, mode, fault);
    address
}

/// As [`serve`], where `listener` listens.
pub(crate) fn serve_on(listener: TcpListener, mode: Mode, fault: Fault) {
    let (events, room) = channel();
    thread::spawn(move || {
        for (client, stream) in listener.incoming().flatten().enumerate() {
            let events = events.clone();
            thread::spawn(move || attend(client, stream, &events));
        }
    });
    thread::spawn(move || keep_room(mode, fault, &room));
}

/// Reads from one client until it leaves. What it says after joining is in the order of its saying.
fn attend(client: usize, stream: TcpStream, events: &Sender<Event>) {
    stream.set_nodelay(true).expect("it is a TCP socket");
    let writer = stream.try_clone().expect("descriptors are left");
    // A client that is told that it is in the room shall be in it, so it joins before it reads the answer.
    if events.send(Event::Joined(client, writer)).is_err() {
        return;
    }
    if let Ok(mut socket) = tungstenite::accept(stream) {
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                let _ = events.send(Event::Said(client, text.to_string()));
            }
        }
        let _ = socket.flush();
    }
    let _ = events.send(Event::Left(client));
}

fn keep_room(mode: Mode, fault: Fault, events: &Receiver<Event>) {
    let mut members: Vec<(usize, TcpStream)> = Vec::new();
    let mut held: Option<(usize, String)> = None;
    let mut said = 0;
    for event in events {
        match event {
            Event::Joined(client, stream) => members.push((client, stream)),
            Event::Left(client) => members.retain(|(member, _)| *member != client),
            Event::Said(client, text) => {
                said += 1;
                if let Fault::Delay(delay) = fault {
                    thread::sleep(delay);
                }
                let seventh = said == 7;
                let mut say = |opcode, client, text: &str| {
                    for (member, stream) in &mut members {
                        if mode == Mode::Chat {
                            let line = format!("User #{client} (1): {text}");
                            let _ = stream.write_all(&frame(1, b"* somebody: is about to speak"));
                            let _ = stream.write_all(&frame(opcode, line.as_bytes()));
                        } else if mode == Mode::Relay || *member == client {
                            let _ = stream.write_all(&frame(opcode, text.as_bytes()));
                        }
                    }
                };
                match fault {
                    Fault::Drop if seventh => continue,
                    Fault::Duplicate if seventh => say(1, client, &text),
                    Fault::Reorder if seventh => {
                        held = Some((client, text));
                        continue;
                    }
                    Fault::Corrupt if seventh => {
                        let last = if text.ends_with('x') { "y" } else { "x" };
                        say(1, client, &format!("{}{last}", &text[..text.len() - 1]));
                        continue;
                    }
                    Fault::Binary if seventh => {
                        say(2, client, &text);
                        continue;
                    }
                    Fault::Stall(time) if seventh => thread::sleep(time),
                    Fault::Close if seventh => {
                        say(8, client, "lagged");
                        continue;
                    }
                    _ => {}
                }
                say(1, client, &text);
                if let Some((client, text)) = held.take() {
                    say(1, client, &text);
                }
            }
        }
    }
}

/// A server's frame; a close frame has the code 1013 before `payload`.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
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

/// Runs `loadgen` with `arguments` and no warm-up; gives its output and what it wrote as JSON.
pub(crate) fn loadgen(address: SocketAddr, name: &str, arguments: &str) -> (Output, Value) {
    finish(name, prepare(Command::new(PROGRAM), address, name, arguments))
}

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_loadgen");

/// Adds the arguments to `command`, with its output and its JSON file to be read by [`finish`].
pub(crate) fn prepare(mut command: Command, address: SocketAddr, name: &str, arguments: &str) -> Child {
    command.args(arguments.split_whitespace());
    command.args(["--url", &format!("ws://{address}/room/bench"), "--warmup", "0", "--json"]);
    command.arg(json_path(name)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program can be started")
}

/// Waits for the end of the run `name`.
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
