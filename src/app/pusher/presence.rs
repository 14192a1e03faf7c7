//! The members of a presence channel.

use std::collections::BTreeMap;

use smallvec::{SmallVec, smallvec};

use super::encode::{Data, encode_event, push_text};

/// The members of a presence channel, each with its connections.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Members by their user identifiers.
    members: BTreeMap<Box<str>, Member>,
}

/// A user that a connection brings to a presence channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewMember {
    pub(super) user_id: Box<str>,
    /// JSON text with what other members may know of the user.
    pub(super) info: Box<str>,
}

#[derive(Debug)]
struct Member {
    /// The JSON text of the member's first connection.
    info: Box<str>,
    /// Numbers of the clients of the user. Never empty.
    clients: SmallVec<[u64; 2]>,
}

impl Presence {
    /// Returns the number of members.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns the user identifiers of the members, sorted.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(|id| &**id)
    }

    pub(super) fn has(&self, user_id: &str) -> bool {
        self.members.contains_key(user_id)
    }

    /// Adds a connection of a user. Returns whether it is the user's first one.
    pub(super) fn add(&mut self, client: u64, new: NewMember) -> bool {
        if let Some(member) = self.members.get_mut(&new.user_id) {
            member.clients.push(client);
            return false;
        }
        self.members.insert(new.user_id, Member { info: new.info, clients: smallvec![client] });
        true
    }

    /// Removes a connection of a user. Returns whether it was the user's last one. Does nothing for a connection that is
    /// not there.
    pub(super) fn remove(&mut self, client: u64, user_id: &str) -> bool {
        let Some(member) = self.members.get_mut(user_id) else { return false };
        member.clients.retain(|other| *other != client);
        let is_gone = member.clients.is_empty();
        if is_gone {
            self.members.remove(user_id);
        }
        is_gone
    }

    /// Returns the event that tells a new subscriber the members.
    pub(super) fn succeeded(&self, channel: &str) -> String {
        let len: usize = self.members.iter().map(|(id, member)| 2 * id.len() + member.info.len() + 16).sum();
        let mut data = String::with_capacity(64 + len);
        data += &format!("{{\"presence\":{{\"count\":{},\"ids\":[", self.members.len());
        for (at, id) in self.members.keys().enumerate() {
            push_comma(&mut data, at);
            push_text(&mut data, id);
        }
        data.push_str("],\"hash\":{");
        for (at, (id, member)) in self.members.iter().enumerate() {
            push_comma(&mut data, at);
            push_text(&mut data, id);
            data.push(':');
            data.push_str(&member.info);
        }
        data.push_str("}}}");
        encode_event("pusher_internal:subscription_succeeded", Some(channel), Data::Text(&data), None)
    }
}

fn push_comma(json: &mut String, at: usize) {
    if at > 0 {
        json.push(',');
    }
}

/// Returns the event about a new member.
pub(super) fn member_added(channel: &str, member: &NewMember) -> String {
    let mut data = String::from("{\"user_id\":");
    push_text(&mut data, &member.user_id);
    data.push_str(",\"user_info\":");
    data.push_str(&member.info);
    data.push('}');
    encode_event("pusher_internal:member_added", Some(channel), Data::Text(&data), None)
}

/// Returns the event about a member that is gone.
pub(super) fn member_removed(channel: &str, user_id: &str) -> String {
    let mut data = String::from("{\"user_id\":");
    push_text(&mut data, user_id);
    data.push('}');
    encode_event("pusher_internal:member_removed", Some(channel), Data::Text(&data), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, info: &str) -> NewMember {
        NewMember { user_id: id.into(), info: info.into() }
    }

    #[test]
    fn a_user_is_a_member_from_its_first_connection_to_its_last() {
        let mut presence = Presence::default();
        assert!(presence.add(1, member("ann", "{}")));
        assert!(!presence.add(2, member("ann", "{\"other\":1}")));
        assert!(presence.add(3, member("bob", "{}")));
        assert!(!presence.remove(9, "ann") && !presence.remove(1, "carl") && !presence.remove(1, "bob"));
        assert!(!presence.remove(1, "ann"));
        assert!(!presence.remove(1, "ann"), "a connection leaves once");
        assert_eq!((presence.len(), presence.has("ann")), (2, true));
        assert!(presence.remove(2, "ann"));
        assert_eq!((presence.len(), presence.has("ann")), (1, false));
    }

    #[test]
    fn events_have_the_bytes_of_the_protocol() {
        let mut presence = Presence::default();
        assert_eq!(
            presence.succeeded("presence-a"),
            r#"{"event":"pusher_internal:subscription_succeeded","data":"{\"presence\":{\"count\":0,\"ids\":[],\"hash\":{}}}","channel":"presence-a"}"#
        );
        presence.add(1, member("2", r#"{"name":"Bo\"b"}"#));
        presence.add(2, member("1", "{}"));
        presence.add(3, member("1", "{}"));
        assert_eq!(
            presence.succeeded("presence-a"),
            r#"{"event":"pusher_internal:subscription_succeeded","data":"{\"presence\":{\"count\":2,\"ids\":[\"1\",\"2\"],\"hash\":{\"1\":{},\"2\":{\"name\":\"Bo\\\"b\"}}}}","channel":"presence-a"}"#
        );
        assert_eq!(
            member_added("presence-a", &member("1", r#"{"name":"Ann"}"#)),
            r#"{"event":"pusher_internal:member_added","data":"{\"user_id\":\"1\",\"user_info\":{\"name\":\"Ann\"}}","channel":"presence-a"}"#
        );
        assert_eq!(
            member_removed("presence-a", "1"),
            r#"{"event":"pusher_internal:member_removed","data":"{\"user_id\":\"1\"}","channel":"presence-a"}"#
        );
    }
}
