//! Shutdown by a signal, for programs that only run the server.

use std::io;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Server, Totals};

/// Exit status after a second signal: 128 + SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;

impl Server {
    /// Serves until SIGTERM, SIGINT or a call of [`Control::stop`](super::Control::stop). Then closes all clients over
    /// the drain time and returns the server's counters. A second signal ends the process at once with status 130.
    ///
    /// ```no_run
    /// use uproar::app::Echo;
    /// use uproar::{Options, Server};
    ///
    /// let server = Server::start_app(Options::default(), |_worker| Box::<Echo>::default())?;
    /// let totals = server.run_until_signal()?;
    /// println!("{} connections served", totals.accepted);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The system refuses the signal handler or its thread. The server has stopped when this returns.
    pub fn run_until_signal(mut self) -> io::Result<Totals> {
        let control = self.control();
        let watching = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
            let handle = signals.handle();
            let watch = move || {
                for (count, _) in signals.forever().enumerate() {
                    if count > 0 {
                        std::process::exit(INTERRUPTED);
                    }
                    control.stop();
                }
            };
            Ok((handle, thread::Builder::new().name("signals".into()).spawn(watch)?))
        });
        if watching.is_err() {
            self.stop();
        }
        self.join();
        let (handle, thread) = watching?;
        handle.close();
        // The result is ignored, since the signal thread panics only if `stop` panics.
        let _ = thread.join();
        Ok(self.totals())
    }
}
