//! The mail between the hubs of a benchmark.

use uproar::hub::{Delivery, Hub, Message, Request};

/// Passes all requests and deliveries between two shards, `other` and `home` (shard 0), to their destinations.
pub(crate) fn bring_mail(other: &mut Hub, home: &mut Hub) {
    bring_requests(other, 1, Some(home));
    let mut batch = std::mem::take(&mut home.outgoing(1).deliveries);
    batch.drain(|delivery, _, frame| match delivery {
        Delivery::Snapshot(snapshot) => other.snapshot(&snapshot, frame),
        Delivery::Frame { room, number, except, .. } => other.deliver(room, number, frame, except),
        other => panic!("the bench makes no {other:?}"),
    });
    home.outgoing(1).deliveries = batch;
}

/// Passes the requests of `hub`, which is shard `from`, to shard 0: the hub `home`, or `hub` itself if `home` is
/// `None`.
pub(crate) fn bring_requests(hub: &mut Hub, from: u16, mut home: Option<&mut Hub>) {
    let mut batch = std::mem::take(&mut hub.outgoing(0).requests);
    batch.drain(|request, name, payload| {
        let home = home.as_deref_mut().unwrap_or(&mut *hub);
        match request {
            Request::Publish { room, kind, .. } => {
                home.order(name, room, Message::new(kind, payload));
            }
            Request::Subscribe { subscriber, .. } => home.subscribe(from, name, subscriber),
            other => panic!("the bench makes no {other:?}"),
        }
    });
    // Like a shard, keeps the memory of the batch for the next turn.
    hub.outgoing(0).requests = batch;
}
