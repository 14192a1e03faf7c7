//! Limits the guesses of the admin token: after some wrong tokens, an address waits before it may send another one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

/// Number of wrong tokens after which an address must wait.
const ALLOWED: u32 = 10;
/// Time for which wrong tokens count together, and for which an address with too many of them must wait.
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of addresses in the table. Beyond it, the address whose first wrong token is oldest is forgotten.
const MAX_ADDRESSES: usize = 10_000;
/// Minimum interval between log lines about wrong tokens at the levels info and warn.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The wrong tokens of the last minute, by address (IPv6: by /64 network).
#[derive(Debug, Default)]
pub(super) struct Guesses {
    of: HashMap<IpAddr, Guessing>,
    logged: Option<Instant>,
}

/// The wrong tokens of one address.
#[derive(Clone, Copy, Debug)]
struct Guessing {
    /// Time of the first wrong token, and of the last one that was allowed.
    since: Instant,
    count: u32,
}

impl Guesses {
    /// Returns the time for which an address must wait before it may send a token. `None` if it may send one now.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let guessing = self.of.get(&network(address)).filter(|guessing| guessing.count >= ALLOWED)?;
        let left = WINDOW.checked_sub(now.saturating_duration_since(guessing.since))?;
        (!left.is_zero()).then_some(left)
    }

    /// Counts a wrong token from an address, and logs it.
    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) {
        let key = network(address);
        if !self.of.contains_key(&key) && self.of.len() >= MAX_ADDRESSES {
            self.make_space(now);
        }
        let guessing = self.of.entry(key).or_insert(Guessing { since: now, count: 0 });
        if now.saturating_duration_since(guessing.since) >= WINDOW {
            *guessing = Guessing { since: now, count: 0 };
        }
        guessing.count += 1;
        let count = guessing.count;
        if count == ALLOWED {
            guessing.since = now;
        }
        self.log(address, count, now);
    }

    /// Forgets the wrong tokens of an address that has sent the right one.
    pub(super) fn succeeded(&mut self, address: IpAddr) {
        self.of.remove(&network(address));
    }

    fn log(&mut self, address: IpAddr, count: u32, now: Instant) {
        let is_due = self.logged.is_none_or(|last| now.saturating_duration_since(last) >= LOG_INTERVAL);
        match count {
            ALLOWED => {
                warn!(%address, count, "many wrong admin tokens; the address gets 429 for {} s", WINDOW.as_secs());
            }
            _ if !is_due => return debug!(%address, count, "a wrong admin token"),
            _ => info!(%address, count, "a wrong admin token"),
        }
        self.logged = Some(now);
    }

    /// Forgets addresses whose time is over, or else the oldest one.
    fn make_space(&mut self, now: Instant) {
        self.of.retain(|_, guessing| now.saturating_duration_since(guessing.since) < WINDOW);
        if self.of.len() >= MAX_ADDRESSES
            && let Some(oldest) = self.of.iter().min_by_key(|(_, guessing)| guessing.since)
        {
            let oldest = *oldest.0;
            self.of.remove(&oldest);
        }
    }
}

/// Returns the address for which wrong tokens are counted: for IPv6 the first one of the /64 network, which one customer
/// of a provider has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_waits_a_minute_after_ten_wrong_tokens() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for second in 0..10 {
            assert_eq!(guesses.wait(one, start), None);
            guesses.failed(one, start + Duration::from_secs(second));
        }
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(guesses.wait(one, at(9)), Some(WINDOW));
        assert_eq!(guesses.wait(one, at(68)), Some(Duration::from_secs(1)));
        assert_eq!((guesses.wait(one, at(69)), guesses.wait(other, at(9))), (None, None));
        guesses.failed(one, at(70));
        assert_eq!(guesses.wait(one, at(70)), None);
        assert_eq!(guesses.wait(address("::ffff:192.0.2.1"), at(9)), guesses.wait(one, at(9)));
    }

    #[test]
    fn few_wrong_tokens_and_the_right_one_are_forgotten() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        let one = address("2001:db8::1");
        for minute in 0..5 {
            (1..ALLOWED).for_each(|_| guesses.failed(one, now + WINDOW * minute));
            assert_eq!(guesses.wait(one, now + WINDOW * minute), None);
        }
        guesses.succeeded(address("2001:db8::2"));
        assert!(guesses.of.is_empty());
        (0..ALLOWED).for_each(|_| guesses.failed(one, now));
        assert!(guesses.wait(address("2001:db8::ffff"), now).is_some());
        assert!(guesses.wait(address("2001:db8:0:1::1"), now).is_none());
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..MAX_ADDRESSES as u32 + 5 {
            guesses.failed(IpAddr::V4(number.into()), now + Duration::from_millis(u64::from(number)));
        }
        assert_eq!(guesses.of.len(), MAX_ADDRESSES);
        assert!(
            !guesses.of.contains_key(&address("0.0.0.0")) && guesses.of.contains_key(&address("0.0.0.9"))
        );
        guesses.failed(address("255.0.0.1"), now + 2 * WINDOW);
        assert_eq!(guesses.of.len(), 1);
    }
}
