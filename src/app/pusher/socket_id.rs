//! Socket identifiers: the names of connections in signatures, and in requests that exclude a connection.
//!
//! The first number is that of the connection, moved by a random number of the server's run. So a signature for a
//! connection of an earlier run is worthless, and nobody can tell how many connections there are. The second number names
//! the shard and the slot.

use super::ClientId;

/// Returns the socket identifier of a client: two numbers with a dot between them.
pub(super) fn socket_id(client: ClientId, salt: u64) -> String {
    let place = u64::from(client.slot) << 16 | u64::from(client.shard);
    format!("{}.{place}", client.number.wrapping_add(salt))
}

/// Returns the client that a socket identifier names. The client may be gone, or may never have existed. `None` for a
/// text that no server ever gave out.
pub(super) fn client_of(socket_id: &str, salt: u64) -> Option<ClientId> {
    let (number, place) = split(socket_id)?;
    let place: u64 = place.parse().ok()?;
    let slot = u32::try_from(place >> 16).ok()?;
    let number = number.parse::<u64>().ok()?.wrapping_sub(salt);
    Some(ClientId { shard: place as u16, slot, number })
}

/// Returns whether a text has the form of a socket identifier, whichever server gave it out.
pub(super) fn is_socket_id(text: &str) -> bool {
    split(text).is_some()
}

fn split(text: &str) -> Option<(&str, &str)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').filter(|(number, place)| is_number(number) && is_number(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_id_names_its_client() {
        for (shard, slot, number) in [(0, 0, 1), (3, 17, 99), (u16::MAX, u32::MAX, u64::MAX)] {
            let client = ClientId { shard, slot, number };
            for salt in [0, 1, 12_345_678_901_234_567_890, u64::MAX] {
                let id = socket_id(client, salt);
                assert!(is_socket_id(&id), "{id}");
                assert_eq!(client_of(&id, salt), Some(client), "{id}");
            }
        }
    }

    #[test]
    fn other_texts_name_no_client() {
        for text in ["", ".", "1", "1.", ".1", "1.2.3", "a.b", "-1.2", "1.2 ", "1.2\n", "+1.2"] {
            assert!(!is_socket_id(text) && client_of(text, 7).is_none(), "{text:?}");
        }
        // Other servers have larger numbers.
        let far = "184467440737095516160.1";
        assert!(is_socket_id(far) && client_of(far, 0).is_none());
    }
}
