//! Echo and relay servers on fastwebsockets, with the library's `upgrade` feature as in its examples and benchmark.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use peer::rooms::Rooms;
use peer::{App, Arguments, runtime};
use tokio::io::BufWriter;
use tokio::sync::broadcast::Sender;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::unconstrained;

/// A message of a room, whose payload all receivers share.
type Message = (OpCode, Bytes);

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let rooms = Rooms::new();
    runtime::run(&arguments, |stream| {
        let app = arguments.app;
        let rooms = Arc::clone(&rooms);
        async move {
            let service = service_fn(|mut request: Request<Incoming>| {
                let rooms = Arc::clone(&rooms);
                async move {
                    let (response, socket) = upgrade(&mut request)?;
                    match app {
                        App::Echo => spawn(echo(socket)),
                        App::Relay => spawn(relay(socket, rooms.enter(request.uri().path()))),
                    }
                    Ok::<_, WebSocketError>(response.map(|_: Empty<Bytes>| Empty::<Bytes>::new()))
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.with_upgrades().await {
                eprintln!("a handshake failed: {error}");
            }
        }
    })
}

/// Runs a connection in a task without cooperative budget, as in the library's examples.
fn spawn(connection: impl Future<Output = Result<(), WebSocketError>> + Send + 'static) {
    tokio::spawn(async move {
        match unconstrained(connection).await {
            Ok(()) | Err(WebSocketError::ConnectionClosed | WebSocketError::UnexpectedEOF) => {}
            Err(WebSocketError::IoError(_)) => {}
            Err(error) => eprintln!("a connection failed: {error}"),
        }
    });
}

async fn echo(socket: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

/// Relays messages between a client and its room. A second task writes, because reads of the library must not be
/// cancelled.
async fn relay(socket: UpgradeFut, room: Sender<Message>) -> Result<(), WebSocketError> {
    // The library makes one system call per frame. The write buffer makes one system call for all queued frames.
    let (reader, writer) = socket.await?.split(|stream| {
        let (reader, writer) = tokio::io::split(stream);
        (reader, BufWriter::new(writer))
    });
    let (answer, answers) = unbounded_channel();
    spawn(write(writer, room.subscribe(), answers));
    let mut reader = FragmentCollectorRead::new(reader);
    loop {
        let mut obliged = |frame: Frame<'_>| {
            let sent = send_answer(&answer, frame);
            async move { sent }
        };
        let frame = reader.read_frame(&mut obliged).await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            // A send error means that the writer task has ended. The next read reports the end.
            OpCode::Text | OpCode::Binary => drop(room.send((frame.opcode, shared(frame.payload)))),
            _ => {}
        }
    }
}

async fn write<W: tokio::io::AsyncWrite + Unpin>(
    mut writer: fastwebsockets::WebSocketWrite<W>,
    mut messages: tokio::sync::broadcast::Receiver<Message>,
    mut answers: UnboundedReceiver<Message>,
) -> Result<(), WebSocketError> {
    loop {
        let first = tokio::select! {
            answer = answers.recv() => answer,
            message = messages.recv() => message.inspect_err(|_| eprintln!("a client has lagged")).ok(),
        };
        // There is no message because the reader task has ended or the client has lagged.
        let Some(mut message) = first else { return Ok(()) };
        loop {
            let frame = Frame::new(true, message.0, None, Payload::Borrowed(&message.1));
            writer.write_frame(frame).await?;
            let Ok(next) = messages.try_recv() else { break };
            message = next;
        }
        writer.flush().await?;
    }
}

/// Hands a pong or close frame to the writer task.
fn send_answer(answer: &UnboundedSender<Message>, frame: Frame<'_>) -> Result<(), WebSocketError> {
    let answer = answer.send((frame.opcode, shared(frame.payload)));
    answer.map_err(|_| WebSocketError::ConnectionClosed)
}

fn shared(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        Payload::Owned(bytes) => bytes.into(),
        other => Bytes::copy_from_slice(&other),
    }
}
