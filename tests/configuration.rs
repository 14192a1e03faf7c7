//! Checks that the table of options in `docs/configuration.md` matches the program's help.
//!
//! `UPDATE_OPTIONS=1 cargo test --test configuration` rewrites the table.

use clap::CommandFactory;
use uproar::config::Cli;

const BEGIN: &str = "<!-- options: begin -->\n";
const END: &str = "<!-- options: end -->";

fn table() -> String {
    let mut table = String::from("| option | default | what it does |\n|---|---|---|\n");
    for argument in Cli::command().get_arguments().filter(|argument| !argument.is_hide_set()) {
        let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) else {
            continue;
        };
        let value = argument.get_value_names().map_or_else(String::new, |names| format!(" {}", names[0]));
        let choices: Vec<String> =
            argument.get_possible_values().iter().map(|choice| choice.get_name().to_owned()).collect();
        let value = if choices.is_empty() { value } else { format!(" {}", choices.join("\\|")) };
        let default = argument.get_default_values().first().map(|default| default.to_string_lossy());
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let meanings: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter_map(|choice| Some(format!("`{}`: {}", choice.get_name(), choice.get_help()?)))
            .collect();
        let help = [&[help], &meanings[..]].concat().join(". ").replace('|', "\\|").replace(".. ", ". ");
        let default = default.map_or_else(String::new, |default| format!("`{default}`"));
        table += &format!("| `--{long}{value}` | {default} | {help} |\n");
    }
    table
}

#[test]
fn the_table_of_options_matches_the_help() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("the page exists");
    let (before, rest) = page.split_once(BEGIN).expect("a mark before the table");
    let (written, after) = rest.split_once(END).expect("a mark after the table");
    if std::env::var_os("UPDATE_OPTIONS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table()))
            .expect("the page is writable");
        return;
    }
    assert_eq!(written, table(), "run: UPDATE_OPTIONS=1 cargo test --test configuration");
}
