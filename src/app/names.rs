//! What users and rooms may be called.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Longest name of a user, in characters.
pub(super) const MAX_NAME: usize = 32;
/// Longest name of a room, in bytes.
pub(super) const MAX_ROOM_NAME: usize = 64;
/// Most combining marks on one character of a name; the scripts that use them need no more.
const MAX_MARKS: usize = 2;

/// Names are 1 to 32 visible characters that cannot be taken for a notice or for another user's line.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err("a name has 1 to 32 characters");
    }
    if !is_word(name) {
        return Err("a name has no spaces and only visible characters");
    }
    // A reader may take the full-width forms of these for the plain ones.
    let plain: String = name.nfkc().collect();
    if plain.starts_with('*') || plain.contains([':', ',', '<', '>', '&']) {
        return Err("a name does not begin with * and has none of : , < > &");
    }
    Ok(())
}

/// Rooms are named by 1 to 64 bytes of visible characters, and single spaces between them, without a slash.
pub(crate) fn check_room(room: &str) -> Result<(), &'static str> {
    if room.is_empty() || room.len() > MAX_ROOM_NAME {
        return Err("a room's name has 1 to 64 bytes");
    }
    if !room.split(' ').all(is_word) || room.contains(['/', '<', '>', '&']) {
        return Err("a room's name has visible words with one space between them, and none of / < > &");
    }
    Ok(())
}

/// What two names have in common that look the same, or nearly: case, composition, compatible forms (UAX #15).
/// Letters of different scripts stay different.
pub(super) fn key(name: &str) -> String {
    name.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Whether every character shows, and none is buried under marks.
fn is_word(word: &str) -> bool {
    let mut marks = 0;
    let mut is_first = true;
    !word.is_empty()
        && word.nfd().all(|char| {
            marks = if is_combining_mark(char) { marks + 1 } else { 0 };
            let is_borne = marks == 0 || !is_first;
            is_first = false;
            is_borne && marks <= MAX_MARKS && is_visible(char)
        })
}

/// Whether a character shows by itself: no space, no control, nothing that reorders or hides its neighbours.
fn is_visible(char: char) -> bool {
    let hides = matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{e000}'..='\u{f8ff}'
        | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d159}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}');
    !char.is_whitespace() && !char.is_control() && !hides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_visible_and_cannot_be_mistaken() {
        let vietnamese = "Nguye\u{302}\u{303}n";
        for name in ["a", "alice", "Zoë", "Zoe\u{308}", "李", "x_1-2.3", "👋", vietnamese, &"n".repeat(32)]
        {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let (long, flood) = ("n".repeat(33), format!("a{}", "\u{300}".repeat(3)));
        for name in [
            "",
            "a b",
            "a\tb",
            "a\nb",
            "a\0b",
            "*",
            "a:",
            "<b>",
            "a&b",
            "a,b",
            "＊",
            "a：b",
            "a\u{200b}",
            "a\u{200d}b",
            "\u{202e}evil",
            "\u{2066}a",
            "\u{2800}",
            "\u{3164}",
            "\u{e000}",
            "\u{300}a",
            "a\u{2028}b",
            "a\u{fe0f}",
            "a\u{e0041}",
            "a\u{1d173}",
            &flood,
            &long,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_that_look_the_same_are_the_same() {
        for (one, other) in [("Alice", "alice"), ("Zoë", "Zoe\u{308}"), ("ａｌｉｃｅ", "alice"), ("Ⅳ", "iv")]
        {
            assert_eq!(key(one), key(other));
        }
        assert_ne!(key("alice"), key("alicia"));
    }

    #[test]
    fn room_names_fit_in_a_path() {
        for room in ["lobby", "a", "c++", "日本", "café noir", &"r".repeat(64)] {
            assert_eq!(check_room(room), Ok(()), "{room}");
        }
        let flood = format!("a{}", "\u{300}".repeat(20));
        for room in [
            "",
            "a/b",
            " a",
            "a ",
            "a  b",
            "a\tb",
            "<i>",
            "a\nb",
            "\u{202e}a",
            "a\u{200b}",
            "a \u{300}",
            &flood,
            &"r".repeat(65),
        ] {
            assert!(check_room(room).is_err(), "{room:?}");
        }
    }
}
