//! Conditions: programs whose result is true or false.

use crate::advice::of_operator;
use crate::compile::{Checked, ProgramError, Rules, Source, check_nesting, compile};
use crate::event::Event;
use crate::program::{Compiled, Ended, Failure};
use freehold_pipeline::block::OnError;
use vrl::compiler::runtime::Runtime;
use vrl::value::{Kind, Value};

/// The compiler's number for an expression that may fail and says nothing of it.
const UNHANDLED: usize = 100;
const NEEDS_ON_ERROR: &str = "set onError to Match, NoMatch or Fail to say what that means";

/// A compiled condition.
#[derive(Clone, Debug)]
pub struct Condition {
    compiled: Compiled,
    on_error: OnError,
}

impl Condition {
    /// Compiles a condition. `on_error` is needed where the compiler cannot exclude an error or
    /// another result.
    ///
    /// # Errors
    /// What is wrong with the program, or that `onError` is missing.
    pub(crate) fn compile(
        program: &str,
        on_error: Option<OnError>,
        event: &Kind,
    ) -> Result<Self, Vec<ProgramError>> {
        let source = Source::of(program);
        check_nesting(&source)?;
        let rules = Rules {
            event: event.clone(),
            may_change: false,
        };
        let whole = |message: String| vec![ProgramError::of_program(message)];
        let checked = match (compile(&source, &rules), on_error) {
            (Ok(checked), _) => checked,
            (Err(errors), on_error) if errors.iter().all(|error| error.code == UNHANDLED) => {
                let Some(on_error) = on_error else {
                    return Err(errors
                        .into_iter()
                        .map(|error| ProgramError {
                            message: format!("this may fail on a record; {NEEDS_ON_ERROR}"),
                            ..error
                        })
                        .collect());
                };
                // The program begins in the second line of the text that is compiled.
                compile(&handled(program, on_error), &rules).map_err(|errors| {
                    let errors = errors.into_iter();
                    errors.map(ProgramError::a_line_up).collect::<Vec<_>>()
                })?
            }
            (Err(errors), _) => return Err(errors),
        };
        let Checked {
            result,
            is_fallible,
            is_abortable,
            compiled,
            ..
        } = checked;
        if is_abortable && on_error != Some(OnError::Fail) {
            return Err(whole(
                "a condition cannot abort; give true or false as its last expression".to_owned(),
            ));
        }
        if !result.contains_boolean() {
            return Err(whole(format!(
                "the last expression is {result}, never true or false; compare it, as in \
                 `.total == 1000`"
            )));
        }
        if on_error.is_none() && is_fallible {
            return Err(whole(format!(
                "this may fail on a record; {NEEDS_ON_ERROR}"
            )));
        }
        if on_error.is_none() && !result.is_boolean() {
            return Err(whole(format!(
                "this may be something else than true or false; write `== true`, or \
                 {NEEDS_ON_ERROR}"
            )));
        }
        Ok(Self {
            compiled,
            on_error: on_error.unwrap_or(OnError::Fail),
        })
    }

    /// See [`Compiled::in_vain`].
    pub(crate) fn in_vain(&self) -> Vec<String> {
        self.compiled.in_vain()
    }

    /// Whether it holds for a record.
    ///
    /// # Errors
    /// It failed, and `onError` is Fail.
    pub fn holds(&self, runtime: &mut Runtime, event: &mut Event<'_>) -> Result<bool, Failure> {
        let why = match self.compiled.run(runtime, event) {
            Ok(Value::Boolean(holds)) => return Ok(holds),
            Ok(other) => Failure::plain(format!(
                "the condition is {}, not true or false",
                other.kind_str()
            )),
            Err(Ended::Failed(why)) => Failure {
                summary: "the condition failed".to_owned(),
                detail: format!("the condition failed: {}", of_operator(&why.detail)),
                ..why
            },
            Err(Ended::Aborted) => Failure::plain("the condition aborted"),
        };
        match self.on_error {
            OnError::Match => Ok(true),
            OnError::NoMatch => Ok(false),
            OnError::Fail => Err(why),
        }
    }
}

/// The program with what an error of it means.
fn handled(program: &str, on_error: OnError) -> Source {
    Source::of(match on_error {
        OnError::Match => format!("{{\n{program}\n}} ?? true"),
        OnError::NoMatch => format!("{{\n{program}\n}} ?? false"),
        OnError::Fail => format!(
            "holds, why = {{\n{program}\n}}\nif why != null {{ abort to_string(why) }}\nholds"
        ),
    })
}
