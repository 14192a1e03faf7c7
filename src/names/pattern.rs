//! Patterns that choose rooms by their names.

use std::fmt;
use std::str::FromStr;

use super::{canonical, room_name};

/// A room's name, or the beginning of room names with `*` at its end. `*` alone is all rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPattern {
    /// The name or its beginning, in canonical form.
    text: String,
    is_prefix: bool,
}

impl RoomPattern {
    /// Returns whether the pattern chooses the room with this name in canonical form.
    pub(crate) fn matches(&self, room: &str) -> bool {
        if self.is_prefix { room.starts_with(&self.text) } else { room == self.text }
    }
}

impl FromStr for RoomPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |start| (start, true));
        // The beginning of a name may end in the middle of what a whole name must have, such as a space.
        if let (false, Err(problem)) = (is_prefix, room_name(name)) {
            return Err(format!(
                "{problem}; expected a room like garden, or the beginning of names like shop-*"
            ));
        }
        Ok(Self { text: canonical(name).into_owned(), is_prefix })
    }
}

impl fmt::Display for RoomPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_rest() {
        for (pattern, room, matches) in [
            ("garden", "garden", true),
            ("garden", "garden2", false),
            ("shop-*", "shop-7", true),
            ("shop-*", "shop-", true),
            ("shop-*", "shop", false),
            ("*", "anything", true),
            ("cafe\u{301}*", "café au lait", true),
        ] {
            let pattern: RoomPattern = pattern.parse().expect("valid");
            assert_eq!(pattern.matches(room), matches, "{pattern} {room}");
        }
        for text in ["", "a/b", "a  b"] {
            assert!(text.parse::<RoomPattern>().is_err_and(|error| error.contains("like garden")), "{text}");
        }
    }
}
