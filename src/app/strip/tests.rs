use std::cell::Cell;

use html5gum::{Token, Tokenizer};
use proptest::prelude::*;

use super::elements::ELEMENTS;
use super::*;

thread_local! {
    /// Number of bytes that the code under test has examined in its search for tags.
    pub(super) static WORK: Cell<usize> = const { Cell::new(0) };
}

/// Returns the markup tokens (all except text) that an HTML parser finds in `text`.
fn markup(text: &str) -> Vec<Token> {
    Tokenizer::new(text)
        .flatten()
        .filter(|token| !matches!(token, Token::String(_) | Token::Error(_)))
        .collect()
}

/// Returns the end of the tag that begins at `text[0]`, by a simple tokenizer that goes forward. `None` if the tag is
/// not complete.
fn naive_tag(text: &[u8]) -> Option<usize> {
    #[derive(Clone, Copy)]
    enum State {
        BeforeName,
        Name,
        AfterName,
        BeforeValue,
        Value,
        Quoted(u8),
    }
    let after_slash = text.strip_prefix(b"</").or_else(|| text.strip_prefix(b"<"))?;
    let is_space = |byte: u8| b"\t\n\x0c\r ".contains(&byte);
    let is_end = |byte: &u8| is_space(*byte) || b"/>".contains(byte);
    let name_len = after_slash.iter().position(is_end)?;
    let name = str::from_utf8(&after_slash[..name_len]).ok()?.to_ascii_lowercase();
    if !ELEMENTS.contains(&&*name) {
        return None;
    }
    let mut state = State::BeforeName;
    for (at, &byte) in text.iter().enumerate().skip(text.len() - after_slash.len() + name_len) {
        state = match (state, byte) {
            (State::Quoted(quote), _) if byte == quote => State::BeforeName,
            (State::Quoted(quote), _) => State::Quoted(quote),
            (_, b'>') => return Some(at + 1),
            (State::BeforeValue, b'"' | b'\'') => State::Quoted(byte),
            (State::BeforeValue, _) if is_space(byte) => State::BeforeValue,
            (State::BeforeValue, _) => State::Value,
            (State::Value, _) if is_space(byte) => State::BeforeName,
            (State::Value, _) => State::Value,
            (_, b'/') => State::BeforeName,
            (State::Name | State::AfterName, b'=') => State::BeforeValue,
            (State::Name | State::AfterName, _) if is_space(byte) => State::AfterName,
            (State::BeforeName, _) if is_space(byte) => State::BeforeName,
            _ => State::Name,
        };
    }
    None
}

/// Returns `text` without the tags of known elements.
fn naive_text(mut text: &str) -> String {
    let mut kept = String::new();
    while let Some(open) = text.find('<') {
        kept.push_str(&text[..open]);
        text = &text[open..];
        let end = naive_tag(text.as_bytes()).unwrap_or_else(|| {
            kept.push('<');
            1
        });
        text = &text[end..];
    }
    kept + text
}

/// Returns whether `stripped` equals `kept`, apart from spaces added after a `<` for safety.
fn is_kept_with_spaces(stripped: &str, kept: &str) -> bool {
    let mut wanted = kept.chars().peekable();
    let mut before = None;
    for char in stripped.chars() {
        if wanted.peek() == Some(&char) {
            wanted.next();
        } else if char != ' ' || before != Some('<') {
            return false;
        }
        before = Some(char);
    }
    wanted.next().is_none()
}

/// Generates text with much more markup than random characters would have.
fn tricky() -> impl Strategy<Value = String> {
    let parts = prop_oneof![
        prop::sample::select(vec![
            "<",
            "</",
            ">",
            "/>",
            "b",
            "img",
            "script",
            "a",
            "url",
            " ",
            "=",
            "\"",
            "'",
            "/",
            "!",
            "--",
            "?",
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "&lt;",
            "&",
            "<b>",
            "</b>",
            "<br/>",
            "\u{202e}",
            "\u{300}",
            "\n",
            "\0",
            "é",
            "x=\"",
            "<a href='",
            "<svg ",
            "<plaintext>",
            "<foo>",
            "1",
            "n",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_typed_is_lost_and_no_markup_is_left(text in tricky()) {
        let stripped = strip_tags(&text).into_owned();
        let kept = naive_text(&text);
        prop_assert!(is_kept_with_spaces(&stripped, &kept), "{text:?} became {stripped:?}, not {kept:?}");
        prop_assert!(markup(&stripped).is_empty(), "{text:?} became {stripped:?}");
        let again = strip_tags(&stripped);
        prop_assert!(matches!(again, Cow::Borrowed(_)), "{stripped:?} became {again:?}");
    }

    #[test]
    fn a_cleaned_message_has_no_markup_and_stays_as_it_is(text in tricky()) {
        let once = clean(&text).into_owned();
        prop_assert!(markup(&once).is_empty(), "{text:?} became {once:?}");
        prop_assert_eq!(&*clean(&once), &*once);
    }

    #[test]
    fn the_search_for_tags_agrees_with_a_tokenizer_that_goes_forward(text in tricky()) {
        let mut tags = Tags::new(text.as_bytes());
        for (open, _) in text.match_indices('<') {
            let expected = naive_tag(&text.as_bytes()[open..]).map(|len| open + len);
            prop_assert_eq!(tags.end_of(open), expected, "{:?} at {}", text, open);
        }
    }
}

#[test]
fn the_elements_are_sorted_and_none_is_longer_than_the_longest() {
    assert!(ELEMENTS.is_sorted());
    assert_eq!(ELEMENTS.iter().map(|name| name.len()).max(), Some(MAX_NAME));
    for name in ELEMENTS {
        assert_eq!(strip_tags(&format!("a<{name}>b</{}>c", name.to_uppercase())), "abc");
    }
}

#[test]
fn tags_go_and_text_stays() {
    for (text, expected) in [
        ("plain & simple", "plain & simple"),
        ("<b>bold</b> move", "bold move"),
        ("1 < 2 && 3 > 2", "1 < 2 && 3 > 2"),
        ("I <3 you", "I <3 you"),
        ("<img src=x onerror=\"a > b\">after", "after"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("&lt;b&gt; &amp; &#60;", "&lt;b&gt; &amp; &#60;"),
        ("&lt;i&gt;<b>x</b>", "&lt;i&gt;x"),
        ("héllo <i>wörld</i> 👋", "héllo wörld 👋"),
        ("<svg onload=alert(1)><path/></svg>", "< path/>"),
        ("<br/><BR /><br\n>x", "x"),
        ("<a href='>' title=\">\">x</a y=\">\">", "x"),
    ] {
        assert_eq!(strip_tags(text), expected, "{text}");
    }
}

#[test]
fn what_only_looks_like_a_tag_stays_with_a_space() {
    for (text, expected) in [
        ("if (i<n && n>0) go", "if (i< n && n>0) go"),
        ("git clone <url> now", "git clone < url> now"),
        ("it costs <b than that", "it costs < b than that"),
        ("a<!-- hidden -->b", "a< !-- hidden -->b"),
        ("<!doctype html>x", "< !doctype html>x"),
        ("<?xml version=1?>x", "< ?xml version=1?>x"),
        ("<![CDATA[x]]>", "< ![CDATA[x]]>"),
        ("</>x</", "< />x< /"),
        ("</ b>", "< / b>"),
        ("unfinished <img src=x onerror=alert(1)", "unfinished < img src=x onerror=alert(1)"),
        ("unclosed <a href=\"x> quote", "unclosed < a href=\"x> quote"),
        (
            "Vec<u8> and Option<String>, <user@example.org>",
            "Vec< u8> and Option< String>, < user@example.org>",
        ),
        ("<bold>", "< bold>"),
        ("a <- b <= c << d <> e", "a <- b <= c << d <> e"),
    ] {
        assert_eq!(strip_tags(text), expected, "{text}");
    }
}

#[test]
fn what_stood_around_a_tag_forms_no_other_one() {
    for (text, expected) in [
        ("<<b>script>x", "< script>x"),
        ("<<<a>b>/i>", "<< b>/i>"),
        ("<scr<b>ipt>", "< script>"),
        ("<<i></i>/b>", "< /b>"),
        ("<<br>!-- x -->", "< !-- x -->"),
    ] {
        assert_eq!(strip_tags(text), expected, "{text}");
    }
}

#[test]
fn a_character_that_is_left_out_hides_no_tag() {
    assert_eq!(clean("<\u{202e}b>x"), "x");
    assert_eq!(clean("<\u{2066}foo>x"), "< foo>x");
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
    let parted = format!("a{0}<b>{0}", "\u{300}".repeat(8));
    assert_eq!(clean(&parted), format!("a{}", "\u{300}".repeat(8)));
    for text in ["שָׁלוֹם", "नमस्ते", "Nguye\u{302}\u{303}n", "👨\u{200d}👩\u{200d}👧", "a\u{200f}b"]
    {
        assert!(matches!(clean(text), Cow::Borrowed(_)), "{text}");
    }
}

#[test]
fn a_message_without_markup_is_not_copied() {
    for text in ["no markup & nothing to do", "1 < 2", "i < n && n>0"] {
        assert!(matches!(strip_tags(text), Cow::Borrowed(_)));
    }
}

#[test]
fn no_text_takes_more_than_a_constant_number_of_looks_at_each_byte() {
    const LEN: usize = 100_000;
    for part in [
        "<",
        "<a",
        "<a ",
        "<a b=\"",
        "<a b='",
        "<a b=\"<a c='",
        "</a ",
        "<!--",
        "&",
        "<selectedcontent",
        "<b><a x=\"",
        "<a/",
        "<a x",
        "x",
    ] {
        for end in ["", ">", "\">", "'>", "\"'>"] {
            let text = part.repeat(LEN / part.len()) + end;
            WORK.set(0);
            strip_tags(&text);
            let work = WORK.get();
            assert!(work <= 4 * text.len(), "{work} looks at {} bytes of {part:?}", text.len());
        }
    }
}
