//! Taking HTML tags and control characters out of what people write.

use std::borrow::Cow;

use html5gum::{Token, Tokenizer};

/// `text` without its HTML tags, and on one line: a line break or another control character becomes a space, so that
/// nobody's message can look like somebody else's next line. Text that has neither is handed back untouched.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let stripped = strip_tags(text);
    if !stripped.contains(char::is_control) {
        return stripped;
    }
    Cow::Owned(stripped.chars().map(|char| if char.is_control() { ' ' } else { char }).collect())
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
    fn a_message_without_markup_is_not_copied() {
        assert!(matches!(strip_tags("no markup & nothing to do"), Cow::Borrowed(_)));
    }
}
