//! Taking HTML tags and control characters out of what people write.

use std::borrow::Cow;

use html5gum::{Token, Tokenizer};
use unicode_normalization::char::is_combining_mark;

/// Most combining marks on one character: a pile of them covers the lines above and below.
const MAX_MARKS: usize = 8;

/// `text` without its HTML tags, and on one line: a line break or another control character becomes a space, so that
/// nobody's message can look like somebody else's next line. What turns the direction of writing for good is left
/// out, since it could turn what stands around the message, and so are piles of combining marks. Text that has
/// none of these is handed back untouched.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let stripped = strip_tags(text);
    if tamed(&stripped).zip(stripped.chars()).all(|(tame, char)| tame == Some(char)) {
        return stripped;
    }
    Cow::Owned(tamed(&stripped).flatten().collect())
}

/// What becomes of each character.
fn tamed(text: &str) -> impl Iterator<Item = Option<char>> {
    let mut marks = 0;
    text.chars().map(move |char| {
        marks = if char > '~' && is_combining_mark(char) { marks + 1 } else { 0 };
        match char {
            // Line and paragraph separators break lines as some controls do.
            '\u{2028}' | '\u{2029}' => Some(' '),
            _ if char.is_control() => Some(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
            _ if marks > MAX_MARKS => None,
            _ => Some(char),
        }
    })
}

/// `text` without its HTML tags and comments, as a browser would find them; entities stay as they were written.
///
/// What is left holds no `<` that could begin a tag, so the result stays harmless when a client inserts it as
/// HTML. The time is linear in the length, and text without `<` is handed back untouched.
pub(super) fn strip_tags(text: &str) -> Cow<'_, str> {
    if !text.contains('<') {
        return Cow::Borrowed(text);
    }
    // The tokenizer decodes entities, so that `&lt;b>` would become a tag; escaped ones come out as they were.
    let escaped = text.replace('&', "&amp;");
    let mut kept = String::with_capacity(text.len());
    for token in Tokenizer::new(&escaped).flatten() {
        if let Token::String(bytes) = token {
            kept.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    // What stood around a tag may form another one: `<<b>script>`. From the end, so that what follows a `<` is
    // what is kept.
    let mut stripped: Vec<char> = Vec::with_capacity(kept.len());
    for char in kept.chars().rev() {
        let begins_tag = |next: &char| next.is_ascii_alphabetic() || "/!?".contains(*next);
        if char != '<' || !stripped.last().is_some_and(begins_tag) {
            stripped.push(char);
        }
    }
    Cow::Owned(stripped.iter().rev().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_and_text_stays() {
        for (text, expected) in [
            ("plain & simple", "plain & simple"),
            ("<b>bold</b> move", "bold move"),
            ("1 < 2 && 3 > 2", "1 < 2 && 3 > 2"),
            ("I <3 you", "I <3 you"),
            ("a<!-- hidden -->b", "ab"),
            ("<img src=x onerror=\"a > b\">after", "after"),
            ("<script>alert(1)</script>", "alert(1)"),
            ("&lt;b&gt; &amp; &#60;", "&lt;b&gt; &amp; &#60;"),
            ("&lt;i&gt;<b>x</b>", "&lt;i&gt;x"),
            ("unfinished <img src=x onerror=alert(1)", "unfinished "),
            ("héllo <i>wörld</i> 👋", "héllo wörld 👋"),
        ] {
            assert_eq!(strip_tags(text), expected, "{text}");
        }
    }

    #[test]
    fn no_tag_can_be_nested_so_that_stripping_makes_one() {
        for text in ["<<b>script>x", "<<<a>b>/i>", "<scr<b>ipt>", "<<i></i>/b>", "<<!---->img src=x>"] {
            let stripped = strip_tags(text);
            let again = strip_tags(&stripped).into_owned();
            assert_eq!(again, stripped, "{text}");
        }
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(clean("hi\n* from admin: <b>pay</b>\u{1b}[1m\tme"), "hi * from admin: pay [1m me");
        assert!(matches!(clean("one line, 1 & 2"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_message_cannot_reach_out_of_its_line() {
        assert_eq!(clean("a\u{2028}* from admin\u{2029}b\u{85}c\0d"), "a * from admin b c d");
        assert_eq!(clean("\u{202e}\u{2067}txet\u{202c}\u{2069}"), "txet");
        let flood = format!("a{}b", "\u{300}".repeat(1_000));
        assert_eq!(clean(&flood), format!("a{}b", "\u{300}".repeat(8)));
        for text in ["שָׁלוֹם", "नमस्ते", "Nguye\u{302}\u{303}n", "👨\u{200d}👩\u{200d}👧", "a\u{200f}b"]
        {
            assert!(matches!(clean(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn a_message_without_markup_is_not_copied() {
        assert!(matches!(strip_tags("no markup & nothing to do"), Cow::Borrowed(_)));
    }
}
