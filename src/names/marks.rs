//! Limits the marks that are drawn above and below the letters of a name.
//!
//! Marks beside a letter take space of their own and are not counted. Marks above and below a letter pile up. So do
//! letters that a virama puts below the letters before them.

use smallvec::SmallVec;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::joiners::{VIRAMA, ZWJ, ZWNJ};

/// Maximum number of marks that stack above one character, as on Vietnamese ế, and maximum number below one character.
const MAX_STACKED: usize = 2;
/// Maximum number of marks on one character that have combining class 0 (places of the script's own), such as the
/// vowels of Burmese and the lower letters of Tibetan.
const MAX_OWN: usize = 4;
/// Maximum number of nonspacing and enclosing marks on one character.
const MAX_MARKS: usize = 6;
/// Maximum number of letters that viramas join. Sanskrit joins up to five.
const MAX_JOINED: usize = 6;

/// The marks on one character of a word, counted by their place.
#[derive(Debug, Default)]
struct Pile {
    marks: SmallVec<[char; MAX_MARKS]>,
    above: usize,
    below: usize,
    own: usize,
    around: usize,
}

impl Pile {
    /// Adds a mark to the character. Returns false if the character has too many marks now, or had this mark already
    /// (UTS #39 §5.4).
    fn add(&mut self, mark: char) -> bool {
        let is_around = match mark.general_category() {
            GeneralCategory::NonspacingMark => false,
            GeneralCategory::EnclosingMark => true,
            _ => return true,
        };
        let is_new = !self.marks.contains(&mark);
        self.marks.push(mark);
        // Unicode, chapter 4.3: the combining classes of marks that are drawn above or below the earlier marks.
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

/// Returns whether the marks on each character of a word are few enough not to reach other lines. A word that begins
/// with a mark is refused.
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
