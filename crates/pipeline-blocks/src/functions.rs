//! The functions that programs may call: those of VRL without the ones whose result differs each
//! time, that write to the log, or that can recurse without end.

use crate::clock;
use crate::coverage::{self, Mark};
use std::sync::LazyLock;
use vrl::compiler::function::{ArgumentList, Example, FunctionCompileContext, Parameter, closure};
use vrl::compiler::state::TypeState;
use vrl::compiler::{Context, Function, FunctionExpression, Resolved, TypeDef};
use vrl::prelude::Compiled;
use vrl::value::Value;

/// Functions of VRL that are not served, and why.
pub const EXCLUDED: [(&str, &str); 15] = [
    ("dns_lookup", OUTSIDE),
    ("get_env_var", OUTSIDE),
    ("get_hostname", OUTSIDE),
    ("get_secret", OUTSIDE),
    ("http_request", OUTSIDE),
    ("log", "it would write the content of records to the log"),
    ("random_bool", RANDOM),
    ("random_bytes", RANDOM),
    ("random_float", RANDOM),
    ("random_int", RANDOM),
    ("reverse_dns", OUTSIDE),
    ("type_def", "it is for the development of VRL"),
    ("uuid_v4", RANDOM),
    ("uuid_v7", RANDOM),
    ("now", "served in a form of its own"),
];
const OUTSIDE: &str = "a program reads records alone, no network and no environment";
const RANDOM: &str = "a record that is worked on again after a failure would get another result; \
                      derive it from the record: sha2(encode_json([%topic, %partition, %offset]))";

static FUNCTIONS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(served);
static WITH_MARKS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(|| {
    let mut functions = served();
    functions.push(Box::new(Mark));
    functions
});

fn served() -> Vec<Box<dyn Function>> {
    let is_served = |name: &str| EXCLUDED.iter().all(|(excluded, _)| *excluded != name);
    let of_vrl = vrl::stdlib::all().into_iter();
    let mut functions: Vec<Box<dyn Function>> = of_vrl
        .filter(|function| is_served(function.identifier()))
        .map(|function| match function.identifier() {
            "map_keys" | "map_values" => Box::new(NotRecursive(function)),
            _ => function,
        })
        .collect();
    functions.push(Box::new(Now));
    functions
}

/// All functions; while a test counts lines, that of [`coverage`] too.
pub fn all() -> &'static [Box<dyn Function>] {
    match coverage::counts() {
        true => &WITH_MARKS,
        false => &FUNCTIONS,
    }
}

/// Why a function that VRL has is not served; `None` if it is, or if VRL has none of this name.
pub fn why_not(name: &str) -> Option<&'static str> {
    let excluded = EXCLUDED.iter().find(|(excluded, _)| *excluded == name);
    excluded.map(|(_, why)| *why)
}

/// A function without its parameter `recursive`: a closure that returns a nested value would go on
/// for ever, until the stack overflows and the process dies (vrl#28).
#[derive(Debug)]
struct NotRecursive(Box<dyn Function>);

impl Function for NotRecursive {
    fn identifier(&self) -> &'static str {
        self.0.identifier()
    }

    fn usage(&self) -> &'static str {
        self.0.usage()
    }

    fn category(&self) -> &'static str {
        self.0.category()
    }

    fn return_kind(&self) -> u16 {
        self.0.return_kind()
    }

    fn examples(&self) -> &'static [Example] {
        self.0.examples()
    }

    /// The first one: `value`.
    fn parameters(&self) -> &'static [Parameter] {
        self.0.parameters().get(..1).unwrap_or_default()
    }

    fn closure(&self) -> Option<closure::Definition> {
        self.0.closure()
    }

    fn compile(
        &self,
        state: &TypeState,
        context: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        self.0.compile(state, context, arguments)
    }
}

/// `now()`: the time of [`clock`].
#[derive(Debug)]
struct Now;

impl Function for Now {
    fn identifier(&self) -> &'static str {
        "now"
    }

    fn usage(&self) -> &'static str {
        "Returns the time at which the stage began the batch of the record."
    }

    fn category(&self) -> &'static str {
        vrl::compiler::Category::Timestamp.as_ref()
    }

    fn return_kind(&self) -> u16 {
        vrl::prelude::kind::TIMESTAMP
    }

    fn examples(&self) -> &'static [Example] {
        &[]
    }

    fn compile(&self, _: &TypeState, _: &mut FunctionCompileContext, _: ArgumentList) -> Compiled {
        Ok(NowCall.as_expr())
    }
}

#[derive(Clone, Debug)]
struct NowCall;

impl FunctionExpression for NowCall {
    fn resolve(&self, _: &mut Context) -> Resolved {
        let time = chrono::DateTime::from_timestamp_millis(clock::now_ms());
        Ok(Value::from(time.unwrap_or_default()))
    }

    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::timestamp()
    }
}
