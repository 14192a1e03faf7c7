//! The application `pusher`, as stock clients use it: connections, subscriptions, presence, client events, signing in.

mod channels;
mod connections;
mod hostile;
mod peer;
mod presence;
mod rest;
mod signin;
mod webhooks;
