//! The tokio runtime and accept loop of the compared servers that use tokio.

use std::future::Future;
use std::io;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::{Arguments, listen, raise_descriptor_limit};

/// Accepts connections and runs `serve` in a task for each connection.
///
/// With one worker, tokio's current-thread runtime is used, as in fastwebsockets' own benchmark. This runtime needs no
/// locks and no wake-ups between threads.
///
/// # Errors
/// Returns an error if the address cannot be bound or accepting fails.
pub fn run<F>(arguments: &Arguments, serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    raise_descriptor_limit()?;
    let mut builder = match arguments.workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(arguments.workers).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listen(arguments.listen)?)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                // The client has left the accept queue, or the process has no free descriptors.
                Err(error) => {
                    eprintln!("cannot accept: {error}");
                    tokio::task::yield_now().await;
                }
            }
        }
    })
}
