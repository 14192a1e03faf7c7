//! The names of all HTML elements.

/// Length of the longest element name in [`ELEMENTS`], in bytes.
pub(super) const MAX_NAME: usize = 15;

/// Names of all elements in the HTML Standard, sorted: the current elements, the embedded `math` and `svg`, the
/// obsolete elements of §16.2, and `image`, which parsers read as `img`.
pub(super) const ELEMENTS: [&str; 145] = [
    "a",
    "abbr",
    "acronym",
    "address",
    "applet",
    "area",
    "article",
    "aside",
    "audio",
    "b",
    "base",
    "basefont",
    "bdi",
    "bdo",
    "bgsound",
    "big",
    "blink",
    "blockquote",
    "body",
    "br",
    "button",
    "canvas",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "data",
    "datalist",
    "dd",
    "del",
    "details",
    "dfn",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "em",
    "embed",
    "fieldset",
    "figcaption",
    "figure",
    "font",
    "footer",
    "form",
    "frame",
    "frameset",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hgroup",
    "hr",
    "html",
    "i",
    "iframe",
    "image",
    "img",
    "input",
    "ins",
    "isindex",
    "kbd",
    "keygen",
    "label",
    "legend",
    "li",
    "link",
    "listing",
    "main",
    "map",
    "mark",
    "marquee",
    "math",
    "menu",
    "menuitem",
    "meta",
    "meter",
    "multicol",
    "nav",
    "nextid",
    "nobr",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "ol",
    "optgroup",
    "option",
    "output",
    "p",
    "param",
    "picture",
    "plaintext",
    "pre",
    "progress",
    "q",
    "rb",
    "rp",
    "rt",
    "rtc",
    "ruby",
    "s",
    "samp",
    "script",
    "search",
    "section",
    "select",
    "selectedcontent",
    "slot",
    "small",
    "source",
    "spacer",
    "span",
    "strike",
    "strong",
    "style",
    "sub",
    "summary",
    "sup",
    "svg",
    "table",
    "tbody",
    "td",
    "template",
    "textarea",
    "tfoot",
    "th",
    "thead",
    "time",
    "title",
    "tr",
    "track",
    "tt",
    "u",
    "ul",
    "var",
    "video",
    "wbr",
    "xmp",
];

/// The names in [`ELEMENTS`] as numbers, in the same order, and the index of the first name with each letter.
static KEYS: [u128; ELEMENTS.len()] = keys();
static FIRST: [u8; 27] = first();

/// Returns whether `name`, in lower case, is the name of an HTML element.
pub(super) fn is_element(name: &[u8]) -> bool {
    let Some(letter) = name.first().and_then(|byte| byte.checked_sub(b'a')).filter(|letter| *letter < 26)
    else {
        return false;
    };
    let range = FIRST[letter as usize] as usize..FIRST[letter as usize + 1] as usize;
    name.len() <= MAX_NAME && KEYS[range].binary_search(&key(name)).is_ok()
}

/// Returns a name of at most [`MAX_NAME`] bytes as a number. Numbers have the same order as the names.
const fn key(name: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    bytes.split_at_mut(name.len()).0.copy_from_slice(name);
    u128::from_be_bytes(bytes)
}

const fn keys() -> [u128; ELEMENTS.len()] {
    let mut keys = [0; ELEMENTS.len()];
    let mut at = 0;
    while at < keys.len() {
        keys[at] = key(ELEMENTS[at].as_bytes());
        at += 1;
    }
    keys
}

const fn first() -> [u8; 27] {
    let mut first = [0; 27];
    let mut at = 0;
    let mut letter = 0;
    while letter < first.len() {
        while at < ELEMENTS.len() && ELEMENTS[at].as_bytes()[0] < b'a' + letter as u8 {
            at += 1;
        }
        first[letter] = at as u8;
        letter += 1;
    }
    first
}
