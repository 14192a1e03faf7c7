//! Echo and relay servers on tokio-tungstenite. The echo server is the library's `echo-server` example.

use std::io;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, future};
use peer::rooms::Rooms;
use peer::{App, Arguments, runtime};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_async_with_config, accept_hdr_async_with_config};

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let rooms = Rooms::new();
    runtime::run(&arguments, |stream| {
        let app = arguments.app;
        let rooms = Arc::clone(&rooms);
        async move {
            let end = match app {
                App::Echo => echo(stream).await,
                App::Relay => relay(stream, &rooms).await,
            };
            match end {
                Ok(()) | Err(Error::ConnectionClosed | Error::Io(_) | Error::Protocol(_)) => {}
                Err(error) => eprintln!("a connection failed: {error}"),
            }
        }
    })
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let (write, read) = accept_async_with_config(stream, Some(config())).await?.split();
    // `forward` queues the messages that have arrived, and flushes when no further message has arrived.
    read.try_filter(|message| future::ready(is_data(message))).forward(write).await
}

async fn relay(stream: TcpStream, rooms: &Rooms<Message>) -> Result<(), Error> {
    let mut path = String::new();
    let mut socket = accept_hdr_async_with_config(stream, PathOf(&mut path), Some(config())).await?;
    let room = rooms.enter(&path);
    let mut messages = room.subscribe();
    loop {
        tokio::select! {
            received = socket.next() => match received {
                // Sending succeeds, because this task's own subscription is always a receiver of the room.
                Some(message) => drop(message.map(|message| is_data(&message).then(|| room.send(message)))?),
                None => return Ok(()),
            },
            message = messages.recv() => {
                let Ok(message) = message else { return lagged() };
                socket.feed(message).await?;
                while let Ok(message) = messages.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}

/// Returns the configuration with the read buffer of 4 KiB that the documentation recommends for many connections. The
/// default is 128 KiB per connection.
fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096)
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

fn lagged() -> Result<(), Error> {
    eprintln!("a client has lagged and is disconnected");
    Ok(())
}

/// A handshake callback that stores the path of the request.
struct PathOf<'a>(&'a mut String);

impl Callback for PathOf<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(self.0);
        Ok(response)
    }
}
