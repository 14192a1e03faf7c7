//! Checks that the table of attacks in `README.md` and the tests agree.

use std::collections::BTreeSet;

const README: &str = include_str!("README.md");

/// Modules with attacks: each module's name and source text.
const MODULES: [(&str, &str); 11] = [
    ("connections", include_str!("connections.rs")),
    ("floods", include_str!("floods.rs")),
    ("frames", include_str!("frames.rs")),
    ("memory", include_str!("memory.rs")),
    ("pusher", include_str!("pusher.rs")),
    ("readers", include_str!("readers.rs")),
    ("requests", include_str!("requests.rs")),
    ("resources", include_str!("resources.rs")),
    ("rooms", include_str!("rooms.rs")),
    ("storms", include_str!("storms.rs")),
    ("work", include_str!("work.rs")),
];

#[test]
fn the_readme_has_a_row_for_each_attack() {
    let rows = README.lines().filter_map(|line| line.strip_suffix("` |")?.rsplit('`').next());
    let listed: BTreeSet<String> = rows.map(str::to_owned).collect();
    let written: BTreeSet<String> = MODULES
        .iter()
        .flat_map(|(module, text)| attacks(text).map(move |name| format!("{module}::{name}")))
        .collect();
    assert!(!written.is_empty());
    assert_eq!(listed, written, "README.md (left) and the tests (right)");
}

/// Returns the names of the functions in a module's list of tests.
fn attacks(text: &str) -> impl Iterator<Item = &str> {
    let (_, list) = text.split_once("on_both_backends!(").expect("a list of tests");
    let (list, _) = list.split_once(");").expect("the end of the list");
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}
