use super::*;

/// Returns whether `name` is allowed both for users and for rooms.
fn is_good(name: &str) -> bool {
    user_name(name).is_ok() && room_name(name).is_ok()
}

#[test]
fn names_in_all_scripts_are_allowed() {
    for name in [
        "alice",
        "Zoë",
        "Zoe\u{308}",
        "Nguye\u{302}\u{303}n",
        "Nguyễn",
        "Łukasz",
        "İbrahim",
        "Þórr", // Latin
        "Ọlá",
        "ọ\u{301}ba",
        "ǖ",
        "Jürgen",
        "ʻOkina",
        "O’Brien",
        "D'Arcy",
        "Ἀχιλλεύς",
        "ᾧ",
        "Γιώργος", // Greek
        "Иван",
        "Ѓорѓи",
        "й",    // Cyrillic
        "Արամ", // Armenian
        "שלום",
        "שָׁלוֹם",
        "בְּרֵאשִׁ֖ית",
        "ז׳בוטינסקי", // Hebrew
        "فاطمة",
        "مُحَمَّد",
        "می‌خواهم",
        "پرویز",
        "ٱللَّٰه",  // Arabic
        "ܐܒܪܗܡ", // Syriac
        "އިބްރާހިމް", // Thaana
        "ߞߊ߲ߞߊ߲",  // N'Ko
        "चीज़ों",
        "नमस्ते",
        "क्‍ष",
        "श्री",
        "कार्त्स्न्य", // Devanagari
        "শ্রী",
        "র‍্যাব",
        "বাংলা",    // Bengali
        "ਪੰਜਾਬੀ",  // Gurmukhi
        "ગુજરાતી", // Gujarati
        "ଓଡ଼ିଆ",    // Oriya
        "தமிழ்",
        "ஸ்ரீ",
        "வாழ்த்துக்கள்", // Tamil
        "తెలుగు",    // Telugu
        "ಕನ್ನಡ",
        "ಸ್ತ್ರೀ", // Kannada
        "മലയാളം",
        "ന്‍", // Malayalam
        "සිංහල",
        "ශ්‍රී", // Sinhala
        "ไทย",
        "สิทธิ์",
        "กำนั้น",
        "น้ำ", // Thai
        "ລາວ",
        "ເຂົ້າ", // Lao
        "བོད་ཡིག",
        "བསྒྲུབས",
        "རྡོ་རྗེ", // Tibetan
        "ကျော်",
        "မြန်မာ",
        "အင်္ဂလိပ်",
        "လျှို့ဝှက်", // Burmese
        "ខ្មែរ",
        "ស្ត្រី", // Khmer
        "საქართველო",
        "አማርኛ",
        "ᏣᎳᎩ",
        "ᓄᓇᕗᑦ",
        "ᠮᠣᠩᠭᠣᠯ", // Georgian, Ethiopic, Cherokee, Inuktitut, Mongolian
        "李小龍",
        "ひらがな",
        "が",
        "か\u{3099}",
        "カタカナ",
        "ﾊﾝｶｸ",
        "김철수",
        "ㄅㄆㄇ",
        "𠮷野家", // Han, Kana, Hangul, Bopomofo
        "ⵜⵉⴼⵉⵏⴰⵖ",
        "𞤀𞤣𞤤𞤢𞤥",
        "ᬩᬮᬶ",
        "ꦗꦮ",
        "𐌲𐌿𐍄",
        "𓀀", // Tifinagh, Adlam, Balinese, Javanese, Gothic, hieroglyphs
    ] {
        assert!(is_good(name), "{name}: {:?} {:?}", user_name(name), room_name(name));
    }
}

#[test]
fn names_may_have_digits_signs_and_symbols() {
    for name in [
        "a",
        "x_1-2.3",
        "c++",
        "...",
        "(^_^)",
        "50%",
        "@home",
        "№1",
        "★",
        "½",
        "٣",
        "שלום1",
        "{}",
        "~",
        "¯\\_(ツ)_¯",
    ] {
        assert!(user_name(name).is_ok(), "{name}: {:?}", user_name(name));
    }
}

#[test]
fn emoji_as_phones_type_them_are_names() {
    for name in [
        "👋",
        "👋🏽",
        "❤️",
        "❤",
        "☺️",
        "☝🏿",
        "👨‍👩‍👧‍👦",
        "👩🏽‍🚀",
        "🏳️‍🌈",
        "🏳️‍⚧️",
        "🏴‍☠️",
        "❤️‍🔥",
        "🐈‍⬛",
        "🧑🏻‍❤️‍💋‍🧑🏿",
        "🏃🏽‍♀️‍➡️",
        "🇩🇪",
        "🇺🇳",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
        "🏴󠁧󠁢󠁷󠁬󠁳󠁿",
        "🏴",
        "1️⃣",
        "#️⃣",
        "1\u{20e3}",
        "👁️‍🗨️",
        "👁‍🗨",
        "fan❤️",
        "🌹فاطمة",
        // Code points of recent or future emoji.
        "\u{1fad0}",
        "\u{1faff}",
    ] {
        assert!(is_good(name), "{name}: {:?}", user_name(name));
    }
}

#[test]
fn names_that_do_not_show_as_they_are_written_are_refused() {
    for name in [
        "",
        "a\tb",
        "a\nb",
        "a\0b",
        "a\u{200b}",
        "a\u{200d}b",
        "a\u{200c}b",
        "\u{200d}",
        "\u{200d}ک",
        "ک\u{200c}",
        "क\u{200d}",
        "क्\u{200c}",
        "\u{202e}evil",
        "\u{2066}a",
        "\u{200f}a",
        "\u{61c}a",
        "\u{2800}",
        "\u{3164}",
        "\u{115f}",
        "\u{ffa0}",
        "\u{17b4}",
        "a\u{34f}b",
        "a\u{ad}b",
        "\u{e000}",
        "\u{feff}a",
        "a\u{2028}b",
        "a\u{a0}b",
        "a\u{3000}b",
        "a\u{180e}b",
        "\u{fffd}",
        "\u{fdd0}",
        "\u{10ffff}",
        "\u{378}",
        "a\u{1d173}",
        "\u{1d159}",
        // Variation selectors and tags that change nothing, or have a meaning that no reader sees.
        "a\u{fe0f}",
        "1\u{fe0f}",
        "❤\u{fe0e}",
        "❤\u{fe0f}\u{fe0f}",
        "a\u{e0041}",
        "👋\u{e0067}\u{e007f}",
        "🏴\u{e0067}\u{e0062}\u{e0078}\u{e0078}\u{e0078}\u{e007f}",
        "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}",
        // Joiners without two neighbours that can be joined.
        "👋\u{200d}",
        "\u{200d}👋",
        "👋\u{200d}a",
        "a\u{200d}👋",
        "👋\u{200d}\u{200d}👋",
        "👋\u{200d}🏽",
        // Emoji sequences that look like their parts without the joiners.
        "👨\u{200d}👩",
        "👋\u{200d}👋",
        "👨\u{200d}👩\u{200d}👧\u{200d}👧\u{200d}👧",
        "👩\u{200d}🚀\u{200d}👩",
        "a👨\u{200d}👩",
    ] {
        assert!(user_name(name).is_err(), "{name:?}");
        assert!(room_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn what_is_drawn_above_and_below_a_name_is_bounded() {
    let above: String = ('\u{300}'..='\u{304}').collect();
    let below: String = ('\u{323}'..='\u{325}').collect();
    let tibetan: String = ('\u{f90}'..='\u{f96}').collect();
    for name in [
        format!("a{}", "\u{300}".repeat(2)),
        format!("a{}", "\u{300}".repeat(20)),
        format!("a{above}"),
        format!("a{below}"),
        format!("e{}", &above[..6]),
        "ก\u{e47}\u{e47}".into(),
        "ก\u{e47}\u{e47}\u{e47}\u{e47}\u{e47}".into(),
        format!("ཧ{tibetan}"),
        "а\u{488}\u{489}".into(),
        "1\u{fe0f}\u{20e3}\u{488}".into(),
        "🙂\u{300}\u{301}\u{302}".into(),
        "က္".repeat(8) + "က",
        "\u{300}a".into(),
        "\u{93e}क".into(),
    ] {
        assert_eq!(check_word(&canonical(&name)), Err(Problem::Marks), "{name:?}");
    }
    // Two marks above a letter and two below are enough for every language here.
    for name in ["a\u{302}\u{301}", "a\u{323}\u{302}\u{301}", "o\u{31b}\u{309}", "s\u{323}\u{331}\u{307}"] {
        assert!(is_good(name), "{name}");
    }
}

#[test]
fn a_name_is_shown_in_the_order_in_which_it_is_written() {
    for name in ["aא", "אa", "1א", "א1٣", "٣א", "bob٣", "שלום-x"] {
        assert_eq!(check_word(name), Err(Problem::Direction), "{name}");
    }
    for name in ["א1", "א-ב", "א😀", "😀א", "٣٤", "فاطمة٣", "a1", "1a", "!א!"] {
        assert_eq!(check_word(name), Ok(()), "{name}");
    }
    // Each word of a room's name has its own direction of writing.
    assert!(room_name("תל אביב club").is_ok());
}

#[test]
fn a_user_cannot_be_mistaken_for_a_notice_or_for_two() {
    let (longest, long) = ("n".repeat(32), "n".repeat(33));
    assert_eq!(user_name(&longest).as_deref(), Ok(&*longest));
    for name in ["a b", "*", "*️⃣", "a:", "<b>", "a&b", "a,b", "＊", "a：b", "＜", &long] {
        assert!(user_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_room_is_named_by_a_part_of_a_path() {
    for room in [
        "lobby",
        "a",
        "c++",
        "日本",
        "café noir",
        "...",
        ".a",
        "%",
        "%2F",
        "a:b",
        "*",
        "?",
        "#",
        "\\",
        &"r".repeat(64),
    ] {
        assert_eq!(room_name(room).as_deref(), Ok(room));
    }
    let flood = format!("a{}", "\u{300}".repeat(20));
    for room in [
        "",
        ".",
        "..",
        "a/b",
        " a",
        "a ",
        "a  b",
        "a\tb",
        "<i>",
        "a\nb",
        "\u{202e}a",
        "a\u{200b}",
        "a \u{300}",
        &flood,
        &"r".repeat(65),
        &"é".repeat(33),
    ] {
        assert!(room_name(room).is_err(), "{room:?}");
    }
    // The name has 96 bytes as typed and 64 bytes in canonical form.
    assert_eq!(room_name(&"e\u{301}".repeat(32)).as_deref(), Ok(&*"é".repeat(32)));
}

#[test]
fn names_that_look_the_same_are_one_in_their_canonical_form() {
    for (one, other) in [
        ("café", "cafe\u{301}"),
        ("Å", "\u{212b}"),
        ("ệ", "e\u{302}\u{323}"),
        ("각", "\u{1100}\u{1161}\u{11a8}"),
        ("क़", "\u{958}"),
        ("が", "か\u{3099}"),
        ("שׁ", "\u{fb2a}"),
        ("😀", "😀\u{fe0f}"),
        ("1\u{fe0f}\u{20e3}", "1\u{20e3}"),
        ("👁\u{fe0f}\u{200d}🗨\u{fe0f}", "👁\u{200d}🗨"),
        ("❤\u{fe0f}\u{200d}🔥", "❤\u{200d}🔥"),
        ("🏃\u{200d}♀\u{fe0f}", "🏃\u{fe0f}\u{200d}♀"),
        ("☝🏽", "☝\u{fe0f}🏽"),
    ] {
        assert_eq!(room_name(one).expect(one), room_name(other).expect(other), "{one}");
        assert_eq!(user_name(one).expect(one), user_name(other).expect(other), "{one}");
        assert_eq!(canonical(&canonical(other)), canonical(other));
    }
    for (one, other) in [("a", "A"), ("cafe", "café"), ("❤", "❤\u{fe0f}"), ("\u{430}", "a"), ("ａ", "a")]
    {
        assert_ne!(canonical(one), canonical(other));
    }
}

#[test]
fn users_names_that_look_nearly_the_same_have_one_key() {
    for (one, other) in [
        ("Alice", "alice"),
        ("Zoë", "Zoe\u{308}"),
        ("ａｌｉｃｅ", "alice"),
        ("Ⅳ", "iv"),
        ("❤", "❤\u{fe0f}"),
        ("میخواهم", "می\u{200c}خواهم"),
        ("👋\u{200d}👋", "👋👋"),
    ] {
        assert_eq!(user_key(one), user_key(other));
    }
    // Letters of different scripts stay different, and so do lookalikes: a private message must not reach another user.
    for (one, other) in [("alice", "alicia"), ("раураl", "paypal"), ("bob1", "bobl"), ("O", "0")] {
        assert_ne!(user_key(one), user_key(other));
    }
}

#[test]
fn a_name_is_refused_before_it_costs_anything() {
    let flood = "a\u{300}".repeat(1 << 20);
    assert!(user_name(&flood).is_err() && room_name(&flood).is_err());
}

proptest::proptest! {
    #[test]
    fn canonical_names_stay_as_they_are(name in "(\\PC|[a-c❤☝👋🏽1#♀\u{fe0f}\u{200d}\u{20e3}\u{300}\u{301}\u{323}]){0,12}") {
        let once = canonical(&name).into_owned();
        proptest::prop_assert_eq!(&*canonical(&once), &*once);
        if let Ok(room) = room_name(&name) {
            proptest::prop_assert_eq!(room_name(&room), Ok(Cow::Borrowed(&*room)));
        }
        if let Ok(user) = user_name(&name) {
            proptest::prop_assert_eq!(user_name(&user), Ok(Cow::Borrowed(&*user)));
            proptest::prop_assert_eq!(user_key(&user), user_key(&name));
        }
    }
}
