//! Compiles programs, and says what is wrong with one: line, column, and the line itself.

use crate::advice::Refused;
use crate::functions;
use crate::isolation;
use crate::program::Compiled;
use std::fmt;
use std::sync::Arc;
use vrl::compiler::state::ExternalEnv;
use vrl::compiler::{CompileConfig, compile_with_external};
use vrl::diagnostic::{Diagnostic, DiagnosticList};
use vrl::owned_value_path;
use vrl::path::OwnedTargetPath;
use vrl::value::Kind;
use vrl::value::kind::Collection;

/// Fields of `%` that a program may read and not change.
const READ_ONLY: [&str; 3] = ["topic", "partition", "offset"];
/// Fields of `%`.
pub(crate) const METADATA: [&str; 6] = [
    "key",
    "headers",
    "timestamp",
    "topic",
    "partition",
    "offset",
];
/// Longest line that is shown.
const LINE_CHARS_MAX: usize = 160;

/// A text of VRL: functions that it includes, then the program itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Name and text of each included function.
    pub included: Vec<(String, String)>,
    pub program: String,
}

impl Source {
    /// A program that includes nothing.
    pub fn of(program: impl Into<String>) -> Self {
        Self {
            included: Vec::new(),
            program: program.into(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (_, function) in &self.included {
            text += function;
            text.push('\n');
        }
        text + &self.program
    }

    /// The part that a position of the text lies in: the function's name (`None`: the program),
    /// its text, and the position in it.
    fn part(&self, mut position: usize) -> (Option<&str>, &str, usize) {
        for (name, function) in &self.included {
            if position <= function.len() {
                return (Some(name), function, position);
            }
            position -= function.len() + 1;
        }
        (None, &self.program, position)
    }
}

/// What is wrong with a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramError {
    /// The included function that it is in; `None`: the program.
    pub function: Option<String>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
    /// The line with a mark under it.
    pub shown: String,
    /// The compiler's number of the error.
    pub(crate) code: usize,
}

impl Source {
    /// Where a position in bytes lies, in words.
    pub(crate) fn place(&self, position: usize) -> String {
        let (function, text, position) = self.part(position);
        let (line, column) = place(text, position);
        match function {
            Some(name) => format!("function {name}, line {line}, column {column}"),
            None => format!("line {line}, column {column}"),
        }
    }
}

impl ProgramError {
    /// Something that is wrong with a program as a whole.
    pub(crate) fn of_program(message: String) -> Self {
        Self {
            function: None,
            line: 1,
            column: 1,
            message,
            shown: String::new(),
            code: 0,
        }
    }

    pub(crate) fn a_line_up(self) -> Self {
        Self {
            line: self.line.saturating_sub(1).max(1),
            ..self
        }
    }
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shown.is_empty() {
            return f.write_str(&self.message);
        }
        if let Some(function) = &self.function {
            write!(f, "function {function}, ")?;
        }
        write!(
            f,
            "line {}, column {}: {}\n{}",
            self.line, self.column, self.message, self.shown
        )
    }
}

/// How a program is compiled.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// What `.` can be.
    pub event: Kind,
    /// Whether it may change the record.
    pub may_change: bool,
}

/// A program with what the compiler found out of it.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub compiled: Compiled,
    /// What its last expression gives.
    pub result: Kind,
    /// What `.` is after it.
    pub event: Kind,
    pub is_fallible: bool,
    pub is_abortable: bool,
}

/// Compiles a program, on this thread. The caller has called [`check_nesting`], and runs on a large
/// stack.
pub(crate) fn compile(source: &Source, rules: &Rules) -> Result<Checked, Vec<ProgramError>> {
    let text = source.text();
    let mut config = CompileConfig::default();
    if rules.may_change {
        for field in READ_ONLY {
            let path = OwnedTargetPath::metadata(owned_value_path!(field));
            config.set_read_only_path(path, true);
        }
    } else {
        config.set_read_only();
    }
    let external = ExternalEnv::new_with_kind(rules.event.clone(), metadata());
    let result = compile_with_external(&text, functions::all(), &external, config)
        .map_err(|diagnostics| errors(source, rules.may_change, diagnostics))?;
    let info = result.program.final_type_info();
    Ok(Checked {
        result: info.result.kind().clone(),
        event: info.state.external.target_kind().clone(),
        is_fallible: result.program.info().fallible,
        is_abortable: result.program.info().abortable,
        compiled: Compiled::new(result.program, Arc::new(source.clone()), rules.may_change),
    })
}

/// Whether the compiler may be given the program at all.
pub(crate) fn check_nesting(source: &Source) -> Result<(), Vec<ProgramError>> {
    let parts = source
        .included
        .iter()
        .map(|(name, text)| (Some(name), text))
        .chain([(None, &source.program)]);
    for (function, text) in parts {
        if let Err((line, column, message)) = isolation::nesting(text) {
            return Err(vec![ProgramError {
                function: function.cloned(),
                line,
                column,
                message,
                shown: shown(text, line, column, 1),
                code: 0,
            }]);
        }
    }
    Ok(())
}

/// What `%` is before the first block.
fn metadata() -> Kind {
    let or_null = |kind: Kind| kind.or_null();
    let fields = [
        ("key", or_null(Kind::bytes())),
        (
            "headers",
            Kind::object(Collection::from_unknown(or_null(Kind::bytes()))),
        ),
        ("timestamp", or_null(Kind::timestamp())),
        ("topic", Kind::bytes()),
        ("partition", Kind::integer()),
        ("offset", Kind::integer()),
    ];
    let fields = fields.map(|(name, kind)| (name.into(), kind));
    Kind::object(Collection::from(std::collections::BTreeMap::from(fields)))
}

fn errors(source: &Source, may_change: bool, diagnostics: DiagnosticList) -> Vec<ProgramError> {
    let problems = diagnostics.iter().filter(|found| found.is_problem());
    problems
        .map(|found| error(source, may_change, found))
        .collect()
}

fn error(source: &Source, may_change: bool, found: &Diagnostic) -> ProgramError {
    let primary = found.labels.iter().find(|label| label.primary);
    let label = primary.or(found.labels.first());
    let span = label.map(|label| (label.span.start(), label.span.end()));
    let (start, end) = span.unwrap_or_default();
    let (function, text, position) = source.part(start);
    let (line, column) = place(text, position);
    let mut message = found.message.clone();
    for label in &found.labels {
        let is_advice = label.message.starts_with("update the expression");
        if (label.primary || is_advice) && !message.contains(&label.message) {
            message += "; ";
            message += &label.message;
        }
    }
    let rest = text.get(position..).unwrap_or_default();
    let width = end.saturating_sub(start);
    let refused = Refused {
        code: found.code,
        message,
        before: text.get(..position).unwrap_or_default(),
        rest,
        expression: rest.get(..width).unwrap_or(rest),
        may_change,
    };
    ProgramError {
        function: function.map(str::to_owned),
        line,
        column,
        message: refused.in_words(),
        shown: shown(text, line, column, width),
        code: found.code,
    }
}

/// Line and column of a position in bytes, both from 1.
pub(crate) fn place(text: &str, position: usize) -> (usize, usize) {
    let before = text.get(..position).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

fn shown(text: &str, line: usize, column: usize, width: usize) -> String {
    let whole = text.lines().nth(line - 1).unwrap_or_default();
    let skipped = column.saturating_sub(LINE_CHARS_MAX / 2);
    let part: String = whole.chars().skip(skipped).take(LINE_CHARS_MAX).collect();
    let number = line.to_string();
    let room = part.chars().count() + 1;
    let mark = width.clamp(1, (room + skipped).saturating_sub(column).max(1));
    format!(
        "  {number} | {part}\n  {:width$} | {:>at$}{}",
        "",
        "",
        "^".repeat(mark),
        width = number.len(),
        at = column - 1 - skipped
    )
}
