//! Tests the client against Autobahn's `wstest -m fuzzingserver`.
//!
//! ```text
//! cargo run -p loadgen --example autobahn -- 127.0.0.1:9001
//! ```
//! The client echoes the messages of each case. At the end it asks the server to write its reports.

use std::env;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use loadgen::ws::deflate::Inflater;
use loadgen::ws::frame::{Opcode, encode};
use loadgen::ws::{Client, Offer, WsEvent};

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let cases: u32 =
        converse(&address, "/getCaseCount")?.ok_or("the server told no number of cases")?.parse()?;
    for case in 1..=cases {
        // The server's report says what is wrong with a case.
        if let Err(error) = converse(&address, &format!("/runCase?case={case}&agent=loadgen")) {
            eprintln!("case {case}: {error}");
        }
    }
    converse(&address, "/updateReports?agent=loadgen")?;
    println!("{cases} cases done; the server has written its reports");
    Ok(())
}

/// Echoes until the server closes. Returns the server's first text message.
fn converse(address: &str, path: &str) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect(address)?;
    let mut rng = fastrand::Rng::new();
    let mut out = Vec::new();
    let mut client = Client::start(address, path, rng.u128(..).to_ne_bytes(), Offer::Off, &mut out);
    stream.write_all(&out)?;
    let mut inflater = Inflater::default();
    let mut kept = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut first_text = None;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(first_text);
        }
        kept.extend_from_slice(&buffer[..count]);
        let mut done = 0;
        let mut is_closed = false;
        out.clear();
        while !is_closed {
            let key = rng.u32(..).to_ne_bytes();
            let step = match client.next(&kept[done..], &mut inflater) {
                Ok(step) => step,
                Err(error) => {
                    encode(&mut out, Opcode::Close, &error.close_code().to_be_bytes(), key);
                    is_closed = true;
                    continue;
                }
            };
            done += step.consumed;
            match step.event {
                WsEvent::NeedsMore => break,
                WsEvent::Opened | WsEvent::Nothing | WsEvent::Response { .. } => {}
                WsEvent::Text(text) => {
                    first_text.get_or_insert_with(|| text.to_owned());
                    encode(&mut out, Opcode::Text, text.as_bytes(), key);
                }
                WsEvent::Binary(bytes) => encode(&mut out, Opcode::Binary, bytes, key),
                WsEvent::Ping(payload) => encode(&mut out, Opcode::Pong, payload, key),
                WsEvent::Closed { code, .. } => {
                    encode(&mut out, Opcode::Close, &code.unwrap_or(1000).to_be_bytes(), key);
                    is_closed = true;
                }
            }
        }
        kept.drain(..done);
        if stream.write_all(&out).is_err() || is_closed {
            return Ok(first_text);
        }
    }
}
