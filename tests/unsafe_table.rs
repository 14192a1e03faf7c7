//! Checks that the table in `docs/unsafe.md` has a row for each unsafe block, function and implementation.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn the_table_has_a_row_for_each_place_of_unsafe_code() {
    let table = fs::read_to_string("docs/unsafe.md").expect("readable");
    let mut found = BTreeMap::new();
    count_below(Path::new("src"), &mut found);
    assert_eq!(
        rows(&table),
        found,
        "docs/unsafe.md (left) and the sources (right): places by file and function"
    );
}

#[test]
fn unsafe_code_is_found_and_comments_strings_and_attributes_are_ignored() {
    let text = "#![expect(unsafe_code)]\n// unsafe { }\nfn a() {\n    let x = unsafe { b() };\n    // SAFETY: unsafe { }\n\
                }\npub(super) unsafe fn c() {}\nunsafe impl Send for D {}\nconst E: &str = \"unsafe { \";\n";
    assert_eq!(places(text), ["a", "c", "Send"]);
    assert_eq!(places("fn f() { g(\n    unsafe {\n h() }, unsafe { i() }) }"), ["f", "f"]);
    let rows =
        rows("| `src/a.rs` | `b` | c | d | e |\n| file | function |\n| `src/a.rs` | `b` | f | g | h |\n");
    assert_eq!(rows, BTreeMap::from([(("src/a.rs".into(), "b".into()), 2)]));
}

/// Number of unsafe places, by file and function name.
type Places = BTreeMap<(String, String), usize>;

fn rows(table: &str) -> Places {
    let mut rows = Places::new();
    for line in table.lines().filter(|line| line.starts_with("| `src/")) {
        let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        let row = (cells.nth(1).expect("a file"), cells.next().expect("a function"));
        *rows.entry(row).or_default() += 1;
    }
    rows
}

fn count_below(directory: &Path, found: &mut Places) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            count_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for function in places(&fs::read_to_string(&path).expect("readable")) {
                *found.entry((path.to_string_lossy().into_owned(), function)).or_default() += 1;
            }
        }
    }
}

/// Returns a name for each unsafe place: the function around an unsafe block, or the unsafe function or trait itself.
fn places(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| without_comments_and_strings(line) + "\n").collect();
    let tokens: Vec<&str> = code
        .split(|char: char| !char.is_alphanumeric() && char != '_' && char != '{')
        .flat_map(|token| token.split_inclusive('{'))
        .filter(|token| !token.is_empty())
        .collect();
    let mut function = "";
    let mut places = Vec::new();
    for pair in tokens.windows(3) {
        if pair[0] == "fn" {
            function = pair[1];
        }
        if pair[0] == "unsafe" {
            places.push(if pair[1] == "{" { function } else { pair[2] }.to_owned());
        }
    }
    places
}

/// Returns a line of code without its comment and without the contents of its string literals.
fn without_comments_and_strings(line: &str) -> String {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}
