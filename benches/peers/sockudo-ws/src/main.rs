//! Echo and relay servers on sockudo-ws, with the echo loop of its README and its own publish and subscribe.

use std::io;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use peer::{App, Arguments, runtime};
use sockudo_ws::handshake::server_handshake;
use sockudo_ws::pubsub::PubSub;
use sockudo_ws::{Config, Error, Message, Role, WebSocketStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let rooms = Arc::new(PubSub::new());
    runtime::run(&arguments, |stream| {
        let app = arguments.app;
        let rooms = Arc::clone(&rooms);
        async move {
            match serve(stream, app, &rooms).await {
                Ok(()) | Err(Error::ConnectionClosed | Error::ConnectionReset | Error::Io(_)) => {}
                Err(error) => eprintln!("a connection failed: {error}"),
            }
        }
    })
}

async fn serve(mut stream: TcpStream, app: App, rooms: &PubSub) -> Result<(), Error> {
    let request = server_handshake(&mut stream).await?;
    let leftover = request.leftover.clone();
    let socket = WebSocketStream::from_raw_with_leftover(stream, Role::Server, Config::default(), leftover);
    match app {
        App::Echo => echo(socket).await,
        App::Relay => relay(socket, rooms, &request.path).await,
    }
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        match message? {
            // `feed` only queues the message. `next` sends queued messages before it waits for input.
            message @ (Message::Text(_) | Message::Binary(_)) => socket.feed(message).await?,
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}

async fn relay(mut socket: WebSocketStream<TcpStream>, rooms: &PubSub, room: &str) -> Result<(), Error> {
    let (sender, mut messages) = unbounded_channel();
    let subscriber = rooms.create_subscriber(sender);
    rooms.subscribe(subscriber, room);
    let end = loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    rooms.publish(room, message);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => break Ok(()),
                Some(Err(error)) => break Err(error),
            },
            Some(message) = messages.recv() => {
                let mut fed = socket.feed(message).await;
                while fed.is_ok() && let Ok(message) = messages.try_recv() {
                    fed = socket.feed(message).await;
                }
                if let Err(error) = fed.and(socket.flush().await) {
                    break Err(error);
                }
            }
        }
    };
    rooms.remove_subscriber(subscriber);
    end
}
