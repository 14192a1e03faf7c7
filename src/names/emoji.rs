//! Emoji sequences as phones type them. UTS #51
//!
//! A sequence with joiners or tags is shown as one picture only if it is recommended for general interchange (RGI). Any
//! other sequence looks like its parts without the joiners, so it would be a second name that looks the same.

use unicode_properties::UnicodeEmoji;
use unicode_properties::emoji::EmojiStatus;

use super::joiners::ZWJ;

/// Variation selector 16, which asks for the colourful form of the character before it.
pub(super) const EMOJI_STYLE: char = '\u{fe0f}';
/// The combining keycap, which draws a key around the character before it.
pub(super) const KEYCAP: char = '\u{20e3}';
/// The black flag, which tag characters behind it turn into the flag of a part of a country.
pub(super) const BLACK_FLAG: char = '\u{1f3f4}';

/// The cancel tag, which ends the tag characters behind a [`BLACK_FLAG`].
const CANCEL_TAG: char = '\u{e007f}';
/// Maximum number of characters in an emoji sequence: somewhat more than the longest known sequence has.
const MAX_SEQUENCE: usize = 16;

/// Returns whether a character is an emoji by itself, or may become one in a later version of Unicode.
pub(super) fn is_pictograph(char: char) -> bool {
    match char.emoji_status() {
        EmojiStatus::NonEmoji => matches!(char, '\u{1f000}'..='\u{1faff}'),
        // Digits and the letters of flags are only parts of emoji.
        EmojiStatus::NonEmojiButEmojiComponent
        | EmojiStatus::EmojiOtherAndEmojiComponent
        | EmojiStatus::EmojiPresentationAndEmojiComponent => false,
        _ => true,
    }
}

/// Returns whether a character is an emoji that is shown as text unless [`EMOJI_STYLE`] follows.
fn is_text_by_default(char: char) -> bool {
    matches!(char.emoji_status(), EmojiStatus::EmojiOther | EmojiStatus::EmojiModifierBase)
}

fn is_colourful_by_default(char: char) -> bool {
    !is_text_by_default(char) && !is_key(char) && char.is_emoji_char()
}

fn is_key(char: char) -> bool {
    char.emoji_status() == EmojiStatus::EmojiOtherAndEmojiComponent
}

fn is_skin_tone(char: char) -> bool {
    matches!(char, '\u{1f3fb}'..='\u{1f3ff}')
}

/// Returns `text` with [`EMOJI_STYLE`] only where fully qualified emoji sequences have this selector. Returns `None` if
/// `text` has this form already. UTS #51, definitions ED-18 to ED-19a
pub(super) fn qualified(text: &str) -> Option<String> {
    if !text.contains([EMOJI_STYLE, ZWJ, KEYCAP]) {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len() + 8);
    for (at, &char) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| chars[before]);
        let next = chars.get(at + 1).copied();
        if char == EMOJI_STYLE {
            let is_text = before.is_some_and(is_text_by_default) && next.is_some_and(is_skin_tone);
            if before.is_some_and(is_colourful_by_default) || is_text {
                continue;
            }
        }
        kept.push(char);
        let is_part = next == Some(ZWJ) && chars.get(at + 2).is_some_and(|other| is_pictograph(*other))
            || before == Some(ZWJ) && chars[..at - 1].last().is_some_and(|other| is_element_end(*other));
        let is_bare = next != Some(EMOJI_STYLE) && !next.is_some_and(is_skin_tone);
        if is_bare && (is_part && is_text_by_default(char) || next == Some(KEYCAP) && is_key(char)) {
            kept.push(EMOJI_STYLE);
        }
    }
    (kept != text).then_some(kept)
}

/// Returns whether a character may end one element of an emoji sequence with joiners.
fn is_element_end(char: char) -> bool {
    is_pictograph(char) || char == EMOJI_STYLE
}

/// Returns whether the joiner at index `at` is part of an emoji sequence that is shown as one picture.
pub(super) fn joins(chars: &[char], at: usize) -> bool {
    let is_part = |char: &char| is_pictograph(*char) || matches!(*char, EMOJI_STYLE | ZWJ);
    let mut start = at;
    // Moves `start` back over all elements that joiners connect to the joiner at `at`.
    loop {
        let element = chars[..start]
            .iter()
            .rev()
            .take_while(|char| is_skin_tone(**char) || **char == EMOJI_STYLE)
            .count();
        let Some(base) = start.checked_sub(element + 1).filter(|base| is_pictograph(chars[*base])) else {
            return false;
        };
        start = base;
        match start.checked_sub(1) {
            Some(before) if chars[before] == ZWJ => start = before,
            _ => break,
        }
    }
    let rest = chars[start..].iter().take_while(|char| is_part(char)).take(MAX_SEQUENCE).count();
    // Tries each possible end of the emoji sequence, the longest sequence first.
    (at + 2..=start + rest).rev().any(|end| {
        let sequence: String = chars[start..end].iter().collect();
        emojis::get(&sequence).is_some_and(|emoji| emoji.as_str() == sequence)
    })
}

/// Returns whether the [`EMOJI_STYLE`] at index `at` changes how the character before it is shown.
pub(super) fn is_styled(chars: &[char], at: usize) -> bool {
    let next = chars.get(at + 1).copied();
    chars[..at].last().is_some_and(|before| match is_key(*before) {
        true => next == Some(KEYCAP),
        false => is_text_by_default(*before),
    })
}

/// Returns whether the [`KEYCAP`] at index `at` belongs to a digit, `#` or `*`.
pub(super) fn is_keycap(chars: &[char], at: usize) -> bool {
    matches!(chars[..at], [.., key, EMOJI_STYLE] if is_key(key))
}

/// Returns the number of tag characters at the start of `behind` that turn a black flag before them into the flag of a
/// part of a country. Returns 0 if there is no such flag.
pub(super) fn subdivision_len(behind: &[char]) -> usize {
    let Some(end) = behind.iter().take(MAX_SEQUENCE).position(|char| *char == CANCEL_TAG) else { return 0 };
    let sequence: String = [BLACK_FLAG].iter().chain(&behind[..=end]).collect();
    if emojis::get(&sequence).is_some() { end + 1 } else { 0 }
}
