//! Removes HTML tags and control characters from messages.
//!
//! A complete tag of a known HTML element is removed. Any other `<` stays. If an HTML parser would begin a tag, a
//! comment or a declaration at that `<`, one space is added after it. All other text is kept.

mod elements;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use unicode_normalization::char::is_combining_mark;

use elements::{MAX_NAME, is_element};

/// Maximum number of combining marks on one character. More marks would cover the lines above and below.
const MAX_MARKS: usize = 8;

/// Returns `text` without HTML tags, and as one line.
///
/// A line break or another control character becomes a space, so that no message can imitate another user's line.
/// Direction controls are removed, because they could affect the text around the message. Combining marks beyond
/// [`MAX_MARKS`] on one character are removed. Other text is returned unchanged.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
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
    if tamed(text).zip(text.chars()).all(|(tame, char)| tame == Some(char)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(tamed(text).flatten().collect())
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
        marks = if char > '~' && is_combining_mark(char) { marks + 1 } else { 0 };
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
    if !text.contains('<') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut tags = find_tags(bytes);
    let mut kept = String::with_capacity(text.len() + 16);
    let mut at = 0;
    let mut is_changed = false;
    while let Some(open) = bytes[at..].iter().position(|byte| *byte == b'<').map(|found| at + found) {
        push(&mut kept, &text[at..open], &mut is_changed);
        while tags.last().is_some_and(|tag| tag.start < open) {
            tags.pop();
        }
        at = match tags.last() {
            Some(tag) if tag.start == open => {
                is_changed = true;
                tag.end
            }
            _ => {
                push(&mut kept, "<", &mut is_changed);
                open + 1
            }
        };
    }
    push(&mut kept, &text[at..], &mut is_changed);
    if is_changed { Cow::Owned(kept) } else { Cow::Borrowed(text) }
}

/// Appends `text` to `kept`, after a space where `text` would turn a `<` at the end of `kept` into markup.
fn push(kept: &mut String, text: &str, is_changed: &mut bool) {
    // WHATWG HTML §13.2.5.6, the tag open state: after `<`, one of these bytes begins markup.
    let begins_markup = |byte: &u8| byte.is_ascii_alphabetic() || b"/!?".contains(byte);
    if kept.ends_with('<') && text.as_bytes().first().is_some_and(begins_markup) {
        kept.push(' ');
        *is_changed = true;
    }
    kept.push_str(text);
}

/// A complete HTML tag: the bytes `start..end` of the text, from `<` through `>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    start: usize,
    end: usize,
}

/// End of the tag for each state of an HTML tokenizer before the current byte. [`NONE`] if the text ends first.
///
/// The field names are the names of the states in WHATWG HTML §13.2.5, without the word "state".
#[derive(Clone, Copy)]
struct Ends {
    tag_name: usize,
    self_closing_start_tag: usize,
    before_attribute_name: usize,
    attribute_name: usize,
    after_attribute_name: usize,
    before_attribute_value: usize,
    double_quoted: usize,
    single_quoted: usize,
    unquoted: usize,
    after_quoted: usize,
}

/// Marks a tag that is not complete: the text ends first.
const NONE: usize = usize::MAX;

impl Ends {
    /// Returns the ends at the end of the text: no tag is complete.
    const fn nowhere() -> Self {
        Self {
            tag_name: NONE,
            self_closing_start_tag: NONE,
            before_attribute_name: NONE,
            attribute_name: NONE,
            after_attribute_name: NONE,
            before_attribute_value: NONE,
            double_quoted: NONE,
            single_quoted: NONE,
            unquoted: NONE,
            after_quoted: NONE,
        }
    }

    /// Returns the ends before `byte`, which is at the offset `at`, given the ends after that byte.
    fn before(self, byte: u8, at: usize) -> Self {
        let Self { before_attribute_name: before_name, attribute_name: name, unquoted, .. } = self;
        match byte {
            b'\t' | b'\n' | 0x0c | b'\r' | b' ' => Self {
                tag_name: before_name,
                self_closing_start_tag: before_name,
                attribute_name: self.after_attribute_name,
                unquoted: before_name,
                after_quoted: before_name,
                ..self
            },
            b'/' => Self {
                tag_name: self.self_closing_start_tag,
                before_attribute_name: self.self_closing_start_tag,
                attribute_name: self.self_closing_start_tag,
                after_attribute_name: self.self_closing_start_tag,
                before_attribute_value: unquoted,
                after_quoted: self.self_closing_start_tag,
                ..self
            },
            b'>' => {
                let end = at + 1;
                let Self { double_quoted, single_quoted, .. } = self;
                Self {
                    double_quoted,
                    single_quoted,
                    tag_name: end,
                    self_closing_start_tag: end,
                    before_attribute_name: end,
                    attribute_name: end,
                    after_attribute_name: end,
                    before_attribute_value: end,
                    unquoted: end,
                    after_quoted: end,
                }
            }
            b'=' => Self {
                // Before an attribute name, `=` is the first character of the name.
                attribute_name: self.before_attribute_value,
                after_attribute_name: self.before_attribute_value,
                before_attribute_value: unquoted,
                before_attribute_name: name,
                self_closing_start_tag: name,
                after_quoted: name,
                ..self
            },
            b'"' => Self {
                before_attribute_value: self.double_quoted,
                double_quoted: self.after_quoted,
                ..self.before_other()
            },
            b'\'' => Self {
                before_attribute_value: self.single_quoted,
                single_quoted: self.after_quoted,
                ..self.before_other()
            },
            _ => self.before_other(),
        }
    }

    /// Returns the ends before a byte that is part of a tag name, an attribute name or a value.
    fn before_other(self) -> Self {
        Self {
            self_closing_start_tag: self.attribute_name,
            before_attribute_name: self.attribute_name,
            after_attribute_name: self.attribute_name,
            before_attribute_value: self.unquoted,
            after_quoted: self.attribute_name,
            ..self
        }
    }
}

/// Returns the complete tags of known elements, the last tag first. Includes tags that begin inside another tag.
///
/// Goes from the end of the text to its beginning and keeps the end of the tag for every state of the tokenizer. So
/// each byte is examined once, no matter how many `<` and unclosed quotes there are.
fn find_tags(text: &[u8]) -> Vec<Tag> {
    let mut tags = Vec::new();
    let first = text.iter().position(|byte| *byte == b'<').unwrap_or(text.len());
    let last = text.iter().rposition(|byte| *byte == b'>').map_or(0, |last| last + 1);
    let mut ends = Ends::nowhere();
    // End of a tag whose name has begun after the current byte, as the name of an end tag does.
    let mut behind = NONE;
    let mut is_word = false;
    for at in (first..last).rev() {
        count_work(1);
        let byte = text[at];
        if byte == b'<' {
            let (name, end) = match text.get(at + 1) {
                Some(b'/') => (at + 2, behind),
                _ => (at + 1, ends.tag_name),
            };
            if end != NONE && is_element(name_at(&text[name..])) {
                tags.push(Tag { start: at, end });
            }
        }
        behind = ends.tag_name;
        let was_word = is_word;
        is_word = !matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ' | b'/' | b'>' | b'=' | b'"' | b'\'');
        // A second byte of a name or a value leaves the ends as they are.
        if !(is_word && was_word) {
            ends = ends.before(byte, at);
        }
    }
    tags
}

/// Counts the bytes examined, for the test that the work stays linear.
fn count_work(bytes: usize) {
    #[cfg(test)]
    tests::WORK.set(tests::WORK.get() + bytes);
    let _ = bytes;
}

/// Returns the tag name at the beginning of `text`, cut off when it is longer than any element's name.
fn name_at(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(MAX_NAME + 1)];
    let is_end = |byte: &u8| matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ' | b'/' | b'>');
    let name = &text[..text.iter().position(is_end).unwrap_or(text.len())];
    count_work(name.len() + 1);
    name
}
