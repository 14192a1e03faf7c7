//! Checks that each directory in `results/` is cited by its full name in a page, and that each cited directory exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_results_directory_is_cited_and_every_cited_directory_exists() {
    let cited: BTreeSet<String> =
        pages().iter().flat_map(|page| citations(&fs::read_to_string(page).expect("readable"))).collect();
    let existing: BTreeSet<String> = fs::read_dir("results")
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a name in UTF-8"))
        .collect();
    assert!(!existing.is_empty());
    let uncited: Vec<_> = existing.difference(&cited).collect();
    assert!(uncited.is_empty(), "no page cites {uncited:?} in results/: delete them or cite them");
    let missing: Vec<_> = cited.difference(&existing).collect();
    assert!(missing.is_empty(), "pages cite {missing:?}, which are not in results/");
}

#[test]
fn names_of_directories_are_found_in_pages() {
    let text = "On 2026-11-25 (`results/2026-11-25-drain/README.md`, 2026-11-26-echo-1k). Not 2026-1-2-x, 12026-11-25-no.";
    assert_eq!(citations(text), ["2026-11-25-drain", "2026-11-26-echo-1k"]);
}

/// Returns the pages that may cite results: all Markdown files of the project outside `results/`.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut directories = vec![PathBuf::from(".")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            let is_other = name.starts_with('.') || ["results", "target", "node_modules"].contains(&&*name);
            if path.is_dir() && !is_other {
                directories.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.contains(&Path::new(".").join("README.md")), "{pages:?}");
    pages
}

/// Returns the words of a text that begin with a date, like the directory `2026-11-25-drain`.
fn citations(text: &str) -> Vec<String> {
    text.split(|char: char| !char.is_ascii_alphanumeric() && char != '-')
        .map(|word| word.trim_end_matches('-'))
        .filter(|word| has_date(word) && word.len() > "2026-11-25-".len())
        .map(str::to_owned)
        .collect()
}

/// Returns whether a word starts with a date and a hyphen.
fn has_date(word: &str) -> bool {
    "0000-00-00-"
        .bytes()
        .zip(word.bytes())
        .filter(|(wanted, byte)| match wanted {
            b'-' => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
        .count()
        == "0000-00-00-".len()
}
