//! Receipts of published messages.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub use crate::hub::Position;

/// The outcome of publishing a message with [`Publisher`](super::Publisher).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The message has a place in the room's order. All members of the room get it, and so do clients that join later,
    /// while it is in the room's history.
    Ordered(Position),
    /// The message to a user was passed on to this number of clients, which is not 0.
    Sent(u32),
    /// Nobody gets the message, since the room has neither members nor history, or the user has no clients.
    Unheard,
    /// [`App::on_publish`](crate::app::App::on_publish) refused the message, or panicked.
    Refused,
    /// The server stopped before it handled the message.
    Stopped,
}

/// A receipt that has not arrived yet.
///
/// A thread waits with [`PendingReceipt::wait`] or [`PendingReceipt::wait_timeout`], asynchronous code with `.await`.
/// Dropping the value changes nothing for the message.
///
/// A handler of an application must not wait for a receipt: it would wait for its own shard. Use
/// [`Publisher::publish_then`](super::Publisher::publish_then) there.
#[derive(Debug)]
#[must_use = "publish without a receipt costs less"]
pub struct PendingReceipt(oneshot::Receiver<Receipt>);

impl PendingReceipt {
    /// Blocks the thread until the receipt arrives.
    pub fn wait(self) -> Receipt {
        self.0.recv().unwrap_or(Receipt::Stopped)
    }

    /// Blocks the thread until the receipt arrives, at most for `timeout`.
    ///
    /// # Errors
    /// The receipt did not arrive in time. The error is the pending receipt.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Receipt, Self> {
        match self.0.recv_timeout(timeout) {
            Ok(receipt) => Ok(receipt),
            Err(oneshot::RecvTimeoutError::Disconnected) => Ok(Receipt::Stopped),
            Err(oneshot::RecvTimeoutError::Timeout) => Err(self),
        }
    }
}

impl IntoFuture for PendingReceipt {
    type Output = Receipt;
    type IntoFuture = ReceiptFuture;

    fn into_future(self) -> ReceiptFuture {
        ReceiptFuture(self.0.into_future())
    }
}

/// The future of a [`PendingReceipt`]. It depends on no particular runtime.
#[derive(Debug)]
pub struct ReceiptFuture(oneshot::AsyncReceiver<Receipt>);

impl Future for ReceiptFuture {
    type Output = Receipt;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Receipt> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Receipt::Stopped))
    }
}

/// Creates a pending receipt, and the function that delivers the receipt.
pub(super) fn pending() -> (OnReceipt, PendingReceipt) {
    let (sender, receiver) = oneshot::channel();
    // The publisher may have dropped its end.
    let on_receipt = OnReceipt::new(move |receipt| drop(sender.send(receipt)));
    (on_receipt, PendingReceipt(receiver))
}

/// A function that waits for the receipt of a message. It is called once: with [`Receipt::Stopped`] when the value is
/// dropped.
pub(crate) struct OnReceipt(Option<Box<dyn FnOnce(Receipt) + Send>>);

impl fmt::Debug for OnReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnReceipt").finish_non_exhaustive()
    }
}

impl OnReceipt {
    pub(super) fn new(then: impl FnOnce(Receipt) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    /// Calls the function. Returns false when it panicked.
    pub(crate) fn give(mut self, receipt: Receipt) -> bool {
        self.call(receipt)
    }

    /// Drops the function without a call.
    pub(super) fn dismiss(mut self) {
        self.0 = None;
    }

    fn call(&mut self, receipt: Receipt) -> bool {
        let Some(then) = self.0.take() else { return true };
        catch_unwind(AssertUnwindSafe(|| then(receipt))).is_ok()
    }
}

impl Drop for OnReceipt {
    fn drop(&mut self) {
        self.call(Receipt::Stopped);
    }
}
