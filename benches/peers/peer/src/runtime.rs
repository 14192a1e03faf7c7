//! The start of a server on tokio.

use std::future::Future;
use std::io;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::{Arguments, listen, raise_descriptor_limit};

/// Runs `serve` in a task for every connection.
///
/// With one worker the runtime is the current-thread one, which needs no locks and wake-ups between threads, as in
/// fastwebsockets' own benchmark.
///
/// # Errors
/// The address cannot be bound, or accepting fails.
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
                // The client has left the accept queue, or descriptors are short.
                Err(error) => {
                    eprintln!("cannot accept: {error}");
                    tokio::task::yield_now().await;
                }
            }
        }
    })
}
