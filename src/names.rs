//! Rules for the names of users and rooms: the allowed characters, and the form in which names are compared.
//!
//! A name is compared and shown in its canonical form. This form changes only the encoding of letters and emoji: `é` as
//! one character or two, an emoji with or without its variation selector. Readers cannot see the difference. So it does
//! not matter which encoding the first user of a name has typed.
//!
//! Names are not identifiers of a programming language, so symbols, emoji and all scripts are allowed. Other rules of
//! UAX #31 and UTS #39 apply. All characters are visible (UTS #39 §3.1). Joiners stand only where they change how a
//! letter looks (UAX #31 §2.3.1). A character has few nonspacing marks (UTS #39 §5.4). A word has one direction of
//! writing (RFC 5893 §2).

mod emoji;
mod joiners;
mod marks;
mod pattern;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use unicode_bidi::{BidiClass, bidi_class};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_security::GeneralSecurityProfile;
use unicode_security::general_security_profile::IdentifierType;

use joiners::{ZWJ, ZWNJ};
pub use pattern::RoomPattern;

/// Maximum length of a user's name, in characters.
pub(crate) const MAX_USER_NAME: usize = 32;
/// Maximum length of a room's name, in bytes.
pub(crate) const MAX_ROOM_NAME: usize = 64;
/// Maximum factor by which normalization makes a name longer or shorter, in bytes: UAX #15, table 8.
const MAX_EXPANSION: usize = 3;

/// Returns the canonical form of a user's name, or a text with the rule that the name breaks.
pub(crate) fn user_name(name: &str) -> Result<Cow<'_, str>, &'static str> {
    let length = "a name has 1 to 32 characters";
    if name.is_empty() || name.len() > MAX_USER_NAME * char::MAX.len_utf8() * MAX_EXPANSION {
        return Err(length);
    }
    let name = canonical(name);
    if name.chars().count() > MAX_USER_NAME {
        return Err(length);
    }
    check_word(&name).map_err(|problem| match problem {
        Problem::Hidden => "a name has no spaces and only visible characters",
        Problem::Marks => "a name has too many marks on one character",
        Problem::Direction => {
            "a name has letters of one direction of writing, and no digits before those from the right"
        }
    })?;
    // A reader may take the full-width form of a reserved character for the plain form, so both forms are refused.
    let plain: String = name.nfkc().collect();
    if plain.starts_with('*') || plain.contains([':', ',', '<', '>', '&']) {
        return Err("a name does not begin with * and has none of : , < > &");
    }
    Ok(name)
}

/// Returns a valid user's name made from `text`: spaces become `_`, characters that a name may not have are left out, and
/// what is over 32 characters is cut off. Returns `None` if no valid name is left.
pub(crate) fn shown_name(text: &str) -> Option<String> {
    let is_reserved = |char: char| char.nfkc().any(|plain| ":,<>&".contains(plain));
    let words = text.split_whitespace().collect::<Vec<_>>().join("_");
    let kept: String = canonical(&words)
        .chars()
        .filter(|char| {
            !is_reserved(*char) && (is_visible(*char) || matches!(*char, ZWJ | ZWNJ | emoji::EMOJI_STYLE))
        })
        .skip_while(|char| char.nfkc().any(|plain| plain == '*'))
        .take(MAX_USER_NAME)
        .collect();
    user_name(&kept).ok().filter(|name| !name.chars().all(|char| char == '_')).map(Cow::into_owned)
}

/// Returns the canonical form of a room's name, or a text with the rule that the name breaks.
///
/// A room's name is a segment of a URL's path. So the name has no slash and is not `.` or `..`, which URLs remove (RFC
/// 3986 §5.2.4).
pub(crate) fn room_name(name: &str) -> Result<Cow<'_, str>, &'static str> {
    let length = "a room's name has 1 to 64 bytes";
    if name.is_empty() || name.len() > MAX_ROOM_NAME * MAX_EXPANSION {
        return Err(length);
    }
    let name = canonical(name);
    if name.len() > MAX_ROOM_NAME {
        return Err(length);
    }
    if matches!(&*name, "." | "..") {
        return Err("a room's name has more than one or two dots, which no URL can name");
    }
    name.split(' ').try_for_each(check_word).map_err(|problem| match problem {
        Problem::Hidden => "a room's name has visible words with one space between them, and none of / < > &",
        Problem::Marks => "a room's name has too many marks on one character",
        Problem::Direction => "a room's name has words of one direction of writing each",
    })?;
    if name.contains(['/', '<', '>', '&']) {
        return Err("a room's name has visible words with one space between them, and none of / < > &");
    }
    Ok(name)
}

/// Returns the canonical form of a name: normalization form C (UAX #15), and emoji with the variation selectors that
/// UTS #51 asks for. Two rooms are equal if the canonical forms of their names are equal.
pub(crate) fn canonical(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        return Cow::Borrowed(name);
    }
    let composed = if is_nfc(name) { Cow::Borrowed(name) } else { Cow::Owned(name.nfc().collect()) };
    match emoji::qualified(&composed) {
        Some(qualified) => Cow::Owned(qualified),
        None => composed,
    }
}

/// Returns the comparison key of a user's name: names that look alike have equal keys. The key ignores case,
/// composition, compatible forms (UAX #15), joiners and variation selectors. Letters of different scripts give
/// different keys.
pub(crate) fn user_key(name: &str) -> String {
    let shown = |char: &char| !matches!(*char, ZWJ | ZWNJ | emoji::EMOJI_STYLE);
    name.nfkc().filter(shown).flat_map(char::to_lowercase).nfkc().collect()
}

/// The rule that a refused word of a name breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    /// The word is empty or has an invisible character.
    Hidden,
    /// The word has so many marks on a character that the marks reach the lines above or below.
    Marks,
    /// The word mixes directions of writing, so that it is displayed in another order than it is written.
    Direction,
}

/// Checks the characters, marks and direction of one word of a name in its canonical form.
fn check_word(word: &str) -> Result<(), Problem> {
    let chars: Vec<char> = word.chars().collect();
    if chars.is_empty() {
        return Err(Problem::Hidden);
    }
    let mut at = 0;
    while at < chars.len() {
        at += shown_at(&chars, at).ok_or(Problem::Hidden)?;
    }
    if !marks::are_few(word) {
        return Err(Problem::Marks);
    }
    if !has_one_direction(&chars) {
        return Err(Problem::Direction);
    }
    Ok(())
}

/// Returns the number of characters, from index `at` on, that are visible as one unit. Returns `None` if the character
/// at `at` is not visible there.
fn shown_at(chars: &[char], at: usize) -> Option<usize> {
    let is_shown = match chars[at] {
        ZWNJ => joiners::separates(chars, at),
        ZWJ => emoji::joins(chars, at) || joiners::connects(chars, at),
        emoji::EMOJI_STYLE => emoji::is_styled(chars, at),
        emoji::KEYCAP => emoji::is_keycap(chars, at),
        emoji::BLACK_FLAG => return Some(1 + emoji::subdivision_len(&chars[at + 1..])),
        char => is_visible(char),
    };
    is_shown.then_some(1)
}

/// Returns whether a character is visible by itself: not a space, not a control character, and not one that reorders or
/// hides its neighbours.
fn is_visible(char: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate, Unassigned,
    };
    match char.general_category() {
        Control | Format | Surrogate | PrivateUse | SpaceSeparator | LineSeparator | ParagraphSeparator => {
            false
        }
        // Phones may have new emoji that this program's Unicode tables do not have yet.
        Unassigned => emoji::is_pictograph(char),
        // Blank characters: the Braille pattern without dots, the null notehead and the Khitan filler. Also the two
        // replacement characters, which stand for something that cannot be shown.
        _ if matches!(char, '\u{2800}' | '\u{1d159}' | '\u{16fe4}' | '\u{fffc}' | '\u{fffd}') => false,
        _ => char.identifier_type() != Some(IdentifierType::Default_Ignorable),
    }
}

/// Returns whether a word is displayed in the order in which it is written, whatever text surrounds it. RFC 5893 §2,
/// without its rules for symbols.
fn has_one_direction(chars: &[char]) -> bool {
    use BidiClass::{AL, AN, EN, L, R};
    let position = |classes: &[BidiClass]| chars.iter().position(|char| classes.contains(&bidi_class(*char)));
    let (digit, other_digit, letter) = (position(&[EN]), position(&[AN]), position(&[R, AL]));
    if letter.is_none() && other_digit.is_none() {
        return true;
    }
    let first_digit = digit.or(other_digit);
    let begins_with_letter = letter.zip(first_digit).is_none_or(|(letter, digit)| letter < digit);
    position(&[L]).is_none() && (digit.is_none() || other_digit.is_none()) && begins_with_letter
}
