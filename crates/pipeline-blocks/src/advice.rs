//! What to write instead of a program that VRL refuses: VRL says what is wrong in the words of its
//! parser, and often not the way out.

use crate::functions;
use freehold_pipeline::nearest::nearest;

/// VRL's numbers of errors (`vrl::compiler`).
const UNHANDLED: usize = 100;
const UNHANDLED_ASSIGNMENT: usize = 103;
const UNDEFINED_FUNCTION: usize = 105;
const NOT_BOOLEAN: usize = 102;
const UNDEFINED_VARIABLE: usize = 701;
const SYNTAX: usize = 203;
const READ_ONLY: usize = 315;

/// An error of VRL, and where it is.
pub(crate) struct Refused<'a> {
    pub code: usize,
    pub message: String,
    /// The program up to the error, and from there on.
    pub before: &'a str,
    pub rest: &'a str,
    /// The expression that the error is about.
    pub expression: &'a str,
    /// Whether the program may change the record; conditions may not.
    pub may_change: bool,
}

impl Refused<'_> {
    /// The message, with the way out.
    pub(crate) fn in_words(self) -> String {
        let name = word(self.rest);
        if let Some(why) = functions::why_not(name) {
            return format!("{name} is not served: {why}");
        }
        let message = &self.message;
        match self.code {
            UNDEFINED_FUNCTION => undefined(name),
            UNDEFINED_VARIABLE => format!(
                "there is no variable {name}; a field of the record begins with a dot: .{name}"
            ),
            READ_ONLY => self.read_only(),
            _ if message.contains("error[E315]") => self.read_only(),
            NOT_BOOLEAN => format!("{message}; compare it, as in `{} == true`", self.expression),
            UNHANDLED | UNHANDLED_ASSIGNMENT if !message.contains("update the expression") => {
                format!("{message}; {}", self.handled())
            }
            SYNTAX => match self.syntax() {
                Some(way_out) => format!("syntax error; {way_out}"),
                None => self.message,
            },
            _ => self.message,
        }
    }

    fn read_only(&self) -> String {
        match self.may_change {
            true => "topic, partition and offset of a record cannot be changed".to_owned(),
            false => "a condition cannot change the record; compare with ==, and change it in a \
                      transform"
                .to_owned(),
        }
    }

    /// How to say what happens when an expression fails.
    fn handled(&self) -> String {
        let name = word(self.expression);
        let is_call = self.expression[name.len()..].starts_with('(');
        let on_failure = match is_call && !name.is_empty() {
            true => format!("`{name}!(…)` lets the block fail on the record"),
            false => "check the types, as in `int!(.a)`, which lets the block fail on the record"
                .to_owned(),
        };
        format!("`(…) ?? 0` gives another value for it; {on_failure}")
    }

    fn syntax(&self) -> Option<String> {
        let place = |wrong: &str, right: &str| format!("write {right} in the place of {wrong}");
        if self.rest.starts_with('\'') {
            return Some("a text stands in double quotes: \"…\"".to_owned());
        }
        match (word(self.rest), last_word(self.before)) {
            ("and", _) => Some(place("and", "&&")),
            ("or", _) => Some(place("or", "||")),
            (_, "not") => Some(place("not", "!")),
            _ => None,
        }
    }
}

fn undefined(name: &str) -> String {
    let known = functions::all().iter();
    let way_out = match nearest(name, known.map(|function| function.identifier())) {
        Some(near) => format!("did you mean {near}?"),
        None => "the functions are those of the reference of VRL".to_owned(),
    };
    format!("there is no function {name}; {way_out}")
}

/// What an error of an operator says at run time. VRL has the words of the remainder for
/// comparisons, too.
pub(crate) fn of_operator(message: &str) -> String {
    let types = message.strip_prefix("can't calculate remainder of type ");
    match types.and_then(|types| types.split_once(" and ")) {
        Some((left, right)) => format!("can't compare or divide types {left} and {right}"),
        None => message.to_owned(),
    }
}

/// The word that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    &text[..end.unwrap_or(text.len())]
}

fn last_word(text: &str) -> &str {
    let text = text.trim_end();
    let start = text.rfind(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    start.map_or(text, |start| text.get(start + 1..).unwrap_or_default())
}
