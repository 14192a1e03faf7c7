//! Removes HTML tags and control characters from messages.
//!
//! A complete tag of a known HTML element is removed. Any other `<` stays. If an HTML parser would begin a tag, a
//! comment or a declaration at that `<`, one space is added after it. All other text is kept.

mod elements;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::borrow::Cow;

use memchr::{memchr, memrchr};
use unicode_normalization::char::is_combining_mark;

use elements::{MAX_NAME, is_element};
use tokenizer::{AFTER, BEFORE, CLASSES, COMPLETE, State};

/// Maximum number of combining marks on one character. More marks would cover the lines above and below.
const MAX_MARKS: usize = 8;
/// The combining mark with the smallest code point.
const FIRST_MARK: char = '\u{300}';

/// Returns `text` without HTML tags, and as one line.
///
/// A line break or another control character becomes a space, so that no message can imitate another user's line.
/// Direction controls are removed, because they could affect the text around the message. Combining marks beyond
/// [`MAX_MARKS`] on one character are removed. Other text is returned unchanged.
pub fn clean(text: &str) -> Cow<'_, str> {
    // Control characters go first: removing one between `<` and `b>` must not create a tag.
    let tame = tame(text);
    match strip_tags(&tame) {
        Cow::Borrowed(_) => tame,
        // Removing a tag can put the combining marks on both sides of the tag on one character.
        Cow::Owned(stripped) => Cow::Owned(tame_owned(stripped)),
    }
}

/// Replaces control characters, and removes direction controls and excess combining marks.
fn tame(text: &str) -> Cow<'_, str> {
    let is_tame = || is_plain(text) || tamed(text).zip(text.chars()).all(|(tame, char)| tame == Some(char));
    if is_tame() { Cow::Borrowed(text) } else { Cow::Owned(tamed(text).flatten().collect()) }
}

/// Returns whether `text` is ASCII without control characters. Checks each block without a branch for each byte, so that
/// the compiler can use vector instructions.
fn is_plain(text: &str) -> bool {
    let mut blocks = text.as_bytes().chunks(64);
    blocks.all(|block| block.iter().fold(true, |is_plain, byte| is_plain & (b' '..=b'~').contains(byte)))
}

fn tame_owned(text: String) -> String {
    match tame(&text) {
        Cow::Owned(changed) => changed,
        Cow::Borrowed(_) => text,
    }
}

/// Returns a replacement for each character of `text`, or `None` where the character is removed.
fn tamed(text: &str) -> impl Iterator<Item = Option<char>> {
    let mut marks = 0;
    text.chars().map(move |char| {
        marks = if char >= FIRST_MARK && is_combining_mark(char) { marks + 1 } else { 0 };
        match char {
            // Line and paragraph separators break lines, as some control characters do.
            '\u{2028}' | '\u{2029}' => Some(' '),
            _ if char.is_control() => Some(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
            _ if marks > MAX_MARKS => None,
            _ => Some(char),
        }
    })
}

/// Returns `text` without complete tags of HTML elements, and with a space after each `<` that would begin markup.
/// Entities stay as they are. Takes time linear in the length of `text`.
pub(super) fn strip_tags(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut tags = Tags::new(bytes);
    let mut kept = Kept { text, copied: 0, kept: String::new() };
    let mut at = 0;
    while let Some(open) = memchr(b'<', &bytes[at..]).map(|found| at + found) {
        at = match tags.end_of(open) {
            Some(end) => {
                kept.leave_out(open, end);
                end
            }
            None => {
                if bytes.get(open + 1).is_some_and(begins_markup) {
                    kept.copy_up_to(open + 1);
                }
                open + 1
            }
        };
    }
    kept.finish()
}

/// Returns whether `byte` after a `<` begins markup. WHATWG HTML §13.2.5.6, the tag open state.
fn begins_markup(byte: &u8) -> bool {
    byte.is_ascii_alphabetic() || b"/!?".contains(byte)
}

/// The text that is kept. Owns a copy only if it differs from the original text.
struct Kept<'t> {
    text: &'t str,
    /// End of the part of `text` that was copied or left out. 0 means that nothing has changed yet.
    copied: usize,
    kept: String,
}

impl<'t> Kept<'t> {
    /// Copies the text up to the offset `end`. Puts a space before the copied part where the part would turn a `<` at
    /// the end of the kept text into markup.
    fn copy_up_to(&mut self, end: usize) {
        let part = &self.text[self.copied..end];
        if self.kept.ends_with('<') && part.as_bytes().first().is_some_and(begins_markup) {
            self.kept.push(' ');
        }
        self.kept.push_str(part);
        self.copied = end;
    }

    /// Leaves out the text from the offset `start` up to `end`.
    fn leave_out(&mut self, start: usize, end: usize) {
        self.copy_up_to(start);
        self.copied = end;
    }

    fn finish(mut self) -> Cow<'t, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.copy_up_to(self.text.len());
        Cow::Owned(self.kept)
    }
}

/// The search for tags in a text, from left to right.
///
/// The end of a tag is found by a tokenizer that goes forward. Only an unclosed quote can hide the end of a tag, and a
/// text may have many tags with unclosed quotes. So when the tokenizer reaches the end of the text for the first time,
/// [`find_complete`] finds out for all places of the text, in one walk, whether a tag there is complete. No further walk
/// is in vain, and the search as a whole examines each byte a few times.
struct Tags<'t> {
    text: &'t [u8],
    /// A bit for each byte of the text: whether a tag whose name begins at the byte is complete. `None` while every tag
    /// was complete.
    complete: Option<Vec<u64>>,
}

impl<'t> Tags<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self { text, complete: None }
    }

    /// Returns the end of the tag that begins with the `<` at `open`. `None` if it is no tag of an HTML element, or the
    /// tag is not complete.
    fn end_of(&mut self, open: usize) -> Option<usize> {
        let name = open + 1 + usize::from(self.text.get(open + 1) == Some(&b'/'));
        let name_len = element_len(&self.text[name.min(self.text.len())..])?;
        let word =
            |complete: &Vec<u64>| complete.get(name / 64).is_some_and(|word| word >> (name % 64) & 1 == 1);
        if !self.complete.as_ref().is_none_or(word) {
            return None;
        }
        let mut state = State::TagName as u8;
        for (at, byte) in self.text.iter().enumerate().skip(name + name_len) {
            count_work(1);
            state = AFTER[CLASSES[*byte as usize] as usize][state as usize];
            if state == COMPLETE {
                return Some(at + 1);
            }
        }
        self.complete.get_or_insert_with(|| find_complete(self.text));
        None
    }
}

/// Returns a bit for each byte of `text`, up to the last `>`: whether a tag whose name begins at the byte is complete.
///
/// Goes from the end of the text to its beginning. Keeps the set of the tokenizer's states from which it would find the
/// end of a tag.
fn find_complete(text: &[u8]) -> Vec<u64> {
    let last = memrchr(b'>', text).map_or(0, |last| last + 1);
    let mut complete = vec![0; last.div_ceil(64)];
    let mut states = 0;
    for at in (0..last).rev() {
        count_work(1);
        states = BEFORE[CLASSES[text[at] as usize] as usize][states as usize];
        complete[at / 64] |= u64::from(states >> State::TagName as u8 & 1) << (at % 64);
    }
    complete
}

/// Counts the bytes examined, for the test that the work stays linear.
fn count_work(bytes: usize) {
    #[cfg(test)]
    tests::WORK.set(tests::WORK.get() + bytes);
    let _ = bytes;
}

/// Returns the length of the element's name at the beginning of `text`. `None` if no known name stands there.
fn element_len(text: &[u8]) -> Option<usize> {
    let mut name = [0; MAX_NAME];
    for (len, byte) in text.iter().enumerate() {
        count_work(1);
        match byte {
            b'\t' | b'\n' | 0x0c | b'\r' | b' ' | b'/' | b'>' => {
                return is_element(&name[..len]).then_some(len);
            }
            byte if byte.is_ascii_alphanumeric() => *name.get_mut(len)? = byte.to_ascii_lowercase(),
            _ => return None,
        }
    }
    None
}
