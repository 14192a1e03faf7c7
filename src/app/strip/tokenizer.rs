//! The part of an HTML tokenizer that finds the end of a tag, as tables.

/// Number of states.
const STATES: usize = 10;
/// Number of classes of bytes.
const KINDS: usize = 7;
/// Value in [`AFTER`] for the end of the tag.
pub(super) const COMPLETE: u8 = STATES as u8;

/// A state of the tokenizer. The names are those of WHATWG HTML §13.2.5, without the word "state".
#[derive(Clone, Copy)]
pub(super) enum State {
    TagName,
    SelfClosingStartTag,
    BeforeAttributeName,
    AttributeName,
    AfterAttributeName,
    BeforeAttributeValue,
    DoubleQuoted,
    SingleQuoted,
    Unquoted,
    AfterQuoted,
}

/// A class of bytes that the tokenizer treats alike.
#[derive(Clone, Copy)]
enum Class {
    Other,
    Space,
    Slash,
    Greater,
    Equals,
    DoubleQuote,
    SingleQuote,
}

/// The [`Class`] of each byte.
pub(super) static CLASSES: [u8; 256] = classes();

/// The state after a byte, by the byte's class and the state before it. [`COMPLETE`] if the byte ends the tag.
pub(super) static AFTER: [[u8; STATES]; KINDS] = after();

/// The set of states before a byte from which the tokenizer finds the end of a tag, by the byte's class and the set after
/// the byte. Bit `n` of a set stands for the state with the number `n`.
pub(super) static BEFORE: [[u16; 1 << STATES]; KINDS] = before();

const fn classes() -> [u8; 256] {
    let mut classes = [Class::Other as u8; 256];
    classes[b'\t' as usize] = Class::Space as u8;
    classes[b'\n' as usize] = Class::Space as u8;
    classes[0x0c] = Class::Space as u8;
    classes[b'\r' as usize] = Class::Space as u8;
    classes[b' ' as usize] = Class::Space as u8;
    classes[b'/' as usize] = Class::Slash as u8;
    classes[b'>' as usize] = Class::Greater as u8;
    classes[b'=' as usize] = Class::Equals as u8;
    classes[b'"' as usize] = Class::DoubleQuote as u8;
    classes[b'\'' as usize] = Class::SingleQuote as u8;
    classes
}

const fn after() -> [[u8; STATES]; KINDS] {
    use State as S;
    // The order of the columns is that of `State`.
    const fn row(states: [S; STATES]) -> [u8; STATES] {
        let mut row = [0; STATES];
        let mut at = 0;
        while at < STATES {
            row[at] = states[at] as u8;
            at += 1;
        }
        row
    }
    const OTHER: [S; STATES] = [
        S::TagName,
        S::AttributeName,
        S::AttributeName,
        S::AttributeName,
        S::AttributeName,
        S::Unquoted,
        S::DoubleQuoted,
        S::SingleQuoted,
        S::Unquoted,
        S::AttributeName,
    ];
    let mut after = [row(OTHER); KINDS];
    after[Class::Space as usize] = row([
        S::BeforeAttributeName,
        S::BeforeAttributeName,
        S::BeforeAttributeName,
        S::AfterAttributeName,
        S::AfterAttributeName,
        S::BeforeAttributeValue,
        S::DoubleQuoted,
        S::SingleQuoted,
        S::BeforeAttributeName,
        S::BeforeAttributeName,
    ]);
    after[Class::Slash as usize] = row([
        S::SelfClosingStartTag,
        S::SelfClosingStartTag,
        S::SelfClosingStartTag,
        S::SelfClosingStartTag,
        S::SelfClosingStartTag,
        S::Unquoted,
        S::DoubleQuoted,
        S::SingleQuoted,
        S::Unquoted,
        S::SelfClosingStartTag,
    ]);
    after[Class::Greater as usize] = [COMPLETE; STATES];
    after[Class::Greater as usize][S::DoubleQuoted as usize] = S::DoubleQuoted as u8;
    after[Class::Greater as usize][S::SingleQuoted as usize] = S::SingleQuoted as u8;
    // Before an attribute name, `=` is the first character of the name.
    after[Class::Equals as usize][S::AttributeName as usize] = S::BeforeAttributeValue as u8;
    after[Class::Equals as usize][S::AfterAttributeName as usize] = S::BeforeAttributeValue as u8;
    after[Class::DoubleQuote as usize][S::BeforeAttributeValue as usize] = S::DoubleQuoted as u8;
    after[Class::DoubleQuote as usize][S::DoubleQuoted as usize] = S::AfterQuoted as u8;
    after[Class::SingleQuote as usize][S::BeforeAttributeValue as usize] = S::SingleQuoted as u8;
    after[Class::SingleQuote as usize][S::SingleQuoted as usize] = S::AfterQuoted as u8;
    after
}

const fn before() -> [[u16; 1 << STATES]; KINDS] {
    let after = after();
    let mut before = [[0; 1 << STATES]; KINDS];
    let mut class = 0;
    while class < KINDS {
        let mut set = 0;
        while set < 1 << STATES {
            let mut state = 0;
            while state < STATES {
                let next = after[class][state];
                if next == COMPLETE || set >> next & 1 == 1 {
                    before[class][set] |= 1 << state;
                }
                state += 1;
            }
            set += 1;
        }
        class += 1;
    }
    before
}
