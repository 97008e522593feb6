//! Answers that were reviewed, in files.

use std::fs;
use std::path::Path;

/// Compares an output with its file, if the case has that file.
pub fn compare(path: &Path, found: &str, wrong: &mut Vec<String>) {
    let Ok(expected) = fs::read_to_string(path) else {
        return;
    };
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    if expected != found {
        let line = expected
            .lines()
            .zip(found.lines())
            .position(|(a, b)| a != b)
            .unwrap_or(expected.lines().count().min(found.lines().count()));
        let of = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
        wrong.push(format!(
            "{} line {}:\n  expected {}\n  found    {}",
            path.display(),
            line + 1,
            of(&expected),
            of(found)
        ));
    }
}
