//! A bound on what is drawn above and below a name.
//!
//! Marks beside a letter take room of their own and are not counted. Those above and below pile up, and so do letters
//! that a virama puts below the ones before them.

use smallvec::SmallVec;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::joiners::{VIRAMA, ZWJ, ZWNJ};

/// Most marks that stack above one character, as on Vietnamese ế, and below one.
const MAX_STACKED: usize = 2;
/// Most marks of a script's own places, such as the vowels of Burmese and the lower letters of Tibetan.
const MAX_OWN: usize = 4;
/// Most nonspacing marks on one character.
const MAX_MARKS: usize = 6;
/// Most letters that viramas join: Sanskrit has five.
const MAX_JOINED: usize = 6;

/// The marks on one character.
#[derive(Debug, Default)]
struct Pile {
    marks: SmallVec<[char; MAX_MARKS]>,
    above: usize,
    below: usize,
    own: usize,
    around: usize,
}

impl Pile {
    /// Adds a mark; false when it is one too many, or there already (UTS #39 §5.4).
    fn add(&mut self, mark: char) -> bool {
        let is_around = match mark.general_category() {
            GeneralCategory::NonspacingMark => false,
            GeneralCategory::EnclosingMark => true,
            _ => return true,
        };
        let is_new = !self.marks.contains(&mark);
        self.marks.push(mark);
        // Unicode, chapter 4.3: the classes of marks that are drawn outwards from what is there.
        match canonical_combining_class(mark) {
            _ if is_around => self.around += 1,
            212..=216 | 228..=232 | 234 => self.above += 1,
            200..=210 | 218..=226 | 233 | 240 => self.below += 1,
            0 => self.own += 1,
            _ => {}
        }
        is_new
            && self.marks.len() <= MAX_MARKS
            && self.above <= MAX_STACKED
            && self.below <= MAX_STACKED
            && self.own <= MAX_OWN
            && self.around <= 1
    }
}

/// Whether no character of a word has so many marks that they reach other lines. A word does not begin with a mark.
pub(super) fn are_few(word: &str) -> bool {
    let mut pile = Pile::default();
    let mut is_joined = false;
    let mut joined = 0;
    word.nfd().enumerate().all(|(at, char)| {
        if is_combining_mark(char) {
            is_joined |= canonical_combining_class(char) == VIRAMA;
            return at > 0 && pile.add(char);
        }
        if matches!(char, ZWJ | ZWNJ) {
            return true;
        }
        pile = Pile::default();
        joined = if is_joined { joined + 1 } else { 1 };
        is_joined = false;
        joined <= MAX_JOINED
    })
}
