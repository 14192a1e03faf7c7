//! Rules for joiners between letters: a joiner is allowed where it changes how a letter looks. UAX #31 §2.3.1

use unicode_joining_type::{JoiningType, get_joining_type};
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// The zero width joiner, an invisible character.
pub(super) const ZWJ: char = '\u{200d}';
/// The zero width non-joiner, an invisible character.
pub(super) const ZWNJ: char = '\u{200c}';

/// The canonical combining class of viramas: marks that take a letter's vowel away and may join the letter to the next
/// one.
pub(super) const VIRAMA: u8 = 9;

/// Returns whether the non-joiner at index `at` separates letters that would be joined. UAX #31, contexts A1 and A2
pub(super) fn separates(chars: &[char], at: usize) -> bool {
    use JoiningType::{DualJoining, LeftJoining, RightJoining, Transparent};
    let (before, behind) = (&chars[..at], &chars[at + 1..]);
    let type_of = |char: &char| get_joining_type(*char);
    let left = before.iter().rev().map(type_of).find(|kind| *kind != Transparent);
    let right = behind.iter().map(type_of).find(|kind| *kind != Transparent);
    let joined =
        matches!(left, Some(LeftJoining | DualJoining)) && matches!(right, Some(RightJoining | DualJoining));
    let next = behind.iter().find(|char| canonical_combining_class(**char) == 0);
    joined || follows_virama(before) && next.is_some_and(|char| is_letter(*char))
}

/// Returns whether the joiner at index `at` asks for another form of the letter before it. UAX #31, context B, and
/// Bengali ya-phalaa after ra (Unicode, chapter 12.2).
pub(super) fn connects(chars: &[char], at: usize) -> bool {
    let is_phalaa =
        chars[..at].ends_with(&['\u{9b0}']) && chars[at + 1..].starts_with(&['\u{9cd}', '\u{9af}']);
    follows_virama(&chars[..at]) || is_phalaa
}

/// Returns whether `chars` end with a letter and a virama on this letter.
fn follows_virama(chars: &[char]) -> bool {
    let class = |char: &&char| canonical_combining_class(**char);
    let is_virama = chars
        .iter()
        .rev()
        .find(|char| matches!(class(char), 0 | VIRAMA))
        .is_some_and(|char| class(&char) == VIRAMA);
    is_virama
        && chars.iter().rev().find(|char| !is_combining_mark(**char)).is_some_and(|char| is_letter(*char))
}

fn is_letter(char: char) -> bool {
    char.general_category_group() == GeneralCategoryGroup::Letter
}
