//! The report of `freehold test` in the XML of JUnit, which CI systems read.

use freehold_pipeline_blocks::testing::Coverage;
use std::fmt::Write;

/// A test case: its suite, its name, and what is wrong (empty: it passed).
pub struct Case {
    pub suite: String,
    pub name: String,
    pub differences: Vec<String>,
}

/// The report. Coverage, by Pipeline, is in properties.
pub fn junit(cases: &[Case], reached: &[(String, Coverage)]) -> String {
    let failed = cases.iter().filter(|case| !case.differences.is_empty());
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "<testsuite name=\"freehold test\" tests=\"{}\" failures=\"{}\">",
        cases.len(),
        failed.count()
    );
    if !reached.is_empty() {
        text += "  <properties>\n";
        for (pipeline, coverage) in reached {
            for (what, done, all) in parts(coverage) {
                let name = escaped(&format!("{pipeline}: {what}"));
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "    <property name=\"{name}\" value=\"{done} of {all}\"/>"
                );
            }
        }
        text += "  </properties>\n";
    }
    for case in cases {
        let (suite, name) = (escaped(&case.suite), escaped(&case.name));
        let _ = write!(text, "  <testcase classname=\"{suite}\" name=\"{name}\"");
        let _ = match case.differences.is_empty() {
            true => writeln!(text, "/>"),
            false => writeln!(
                text,
                ">\n    <failure>{}</failure>\n  </testcase>",
                escaped(&case.differences.join("\n"))
            ),
        };
    }
    text + "</testsuite>\n"
}

/// What is counted, how much of it was reached, and how much there is.
fn parts(coverage: &Coverage) -> [(&'static str, usize, usize); 2] {
    let (places, lines) = (coverage.places, &coverage.lines);
    [
        (
            "blocks and cases of splits reached",
            places.saturating_sub(coverage.unreached.len()),
            places,
        ),
        ("lines of programs run", lines.run.len(), lines.all.len()),
    ]
}

/// Text in XML 1.0, which has no place for most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(letter),
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_escapes() {
        let case = |name: &str, differences: &[&str]| Case {
            suite: "orders".to_owned(),
            name: name.to_owned(),
            differences: differences.iter().map(ToString::to_string).collect(),
        };
        let coverage = Coverage {
            unreached: vec!["late".to_owned()],
            places: 5,
            ..Coverage::default()
        };
        let reached = [("orders".to_owned(), coverage)];
        let cases = [case("a < b & \"c\"", &[]), case("bad", &["out: <1>\u{1}"])];
        assert_eq!(
            junit(&cases, &reached),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"freehold test\" tests=\"2\" failures=\"1\">\n  <properties>\n    \
             <property name=\"orders: blocks and cases of splits reached\" value=\"4 of 5\"/>\n    \
             <property name=\"orders: lines of programs run\" value=\"0 of 0\"/>\n  \
             </properties>\n  <testcase classname=\"orders\" name=\"a &lt; b &amp; &quot;c&quot;\"/>\n  \
             <testcase classname=\"orders\" name=\"bad\">\n    \
             <failure>out: &lt;1&gt;\u{fffd}</failure>\n  </testcase>\n</testsuite>\n"
        );
    }
}
