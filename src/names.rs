//! The names of users and rooms: which are allowed, and which are equal.
//!
//! A name is compared in its canonical form, and that form is shown. It differs from what was typed in how the same
//! letters and emoji are encoded (`é` as one character or two, an emoji with or without its variation selector), which
//! nobody can see. So the one who comes first decides nothing that another one would miss.
//!
//! Names are not identifiers of a programming language, so symbols, emoji and all scripts are allowed. What UAX #31
//! and UTS #39 ask for beyond that holds: no characters that do not show (UTS #39 §3.1), joiners only where they
//! change how a letter looks (UAX #31 §2.3.1), few nonspacing marks on one character (UTS #39 §5.4), and one direction
//! of writing (RFC 5893 §2).

mod emoji;
mod joiners;
mod marks;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use unicode_bidi::{BidiClass, bidi_class};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_security::GeneralSecurityProfile;
use unicode_security::general_security_profile::IdentifierType;

use joiners::{ZWJ, ZWNJ};

/// Longest name of a user, in characters.
pub(crate) const MAX_USER_NAME: usize = 32;
/// Longest name of a room, in bytes.
pub(crate) const MAX_ROOM_NAME: usize = 64;
/// Bytes that normalization can make of one byte at most, and one byte of at most: UAX #15, table 8.
const MAX_EXPANSION: usize = 3;

/// Returns the canonical form of a user's name, or what is wrong with the name.
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
    // A reader may take the full-width forms of these for the plain ones.
    let plain: String = name.nfkc().collect();
    if plain.starts_with('*') || plain.contains([':', ',', '<', '>', '&']) {
        return Err("a name does not begin with * and has none of : , < > &");
    }
    Ok(name)
}

/// Returns the canonical form of a room's name, or what is wrong with the name.
///
/// A room's name is a part of a URL's path. So it has no slash, and is not one that a URL leaves out (RFC 3986 §5.2.4).
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

/// Returns the one form of all names that are the same letters and emoji: normalization form C (UAX #15), and emoji
/// with the variation selectors that UTS #51 asks for. Rooms are equal when these forms are.
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

/// Returns what two users' names have in common that look the same, or nearly: case, composition, compatible forms
/// (UAX #15), joiners and variation selectors. Letters of different scripts stay different.
pub(crate) fn user_key(name: &str) -> String {
    let shown = |char: &char| !matches!(*char, ZWJ | ZWNJ | emoji::EMOJI_STYLE);
    name.nfkc().filter(shown).flat_map(char::to_lowercase).nfkc().collect()
}

/// The reason why a word of a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    /// The word is empty, or a character of it is invisible.
    Hidden,
    /// Marks on a character reach the lines above or below.
    Marks,
    /// The word is displayed in another order than it is written.
    Direction,
}

/// Checks a word in its canonical form.
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

/// Returns how many characters from `at` on show as they stand there; `None` when the first one does not.
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

/// Whether a character shows by itself: no space, no control, nothing that reorders or hides its neighbours.
fn is_visible(char: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate, Unassigned,
    };
    match char.general_category() {
        Control | Format | Surrogate | PrivateUse | SpaceSeparator | LineSeparator | ParagraphSeparator => {
            false
        }
        // Phones have next year's emoji before we do.
        Unassigned => emoji::is_pictograph(char),
        // Blank letters: the Braille pattern without dots, a note without head, the filler of Khitan, and what stands
        // for something that cannot be shown.
        _ if matches!(char, '\u{2800}' | '\u{1d159}' | '\u{16fe4}' | '\u{fffc}' | '\u{fffd}') => false,
        _ => char.identifier_type() != Some(IdentifierType::Default_Ignorable),
    }
}

/// Whether a word is shown in the order in which it is written, whatever stands around it. RFC 5893 §2, without what
/// that forbids of symbols.
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
