//! Which lines of programs the tests of a Pipeline run. A mark is put before each statement of every
//! program, and the cases are run once more with the marks. What that run gives is not compared:
//! with the marks, the columns in messages are other ones.

use freehold_pipeline::block::Transform;
use freehold_pipeline::definition::Definition;
use std::cell::RefCell;
use std::collections::BTreeSet;
use vrl::compiler::function::{ArgumentList, Example, FunctionCompileContext, Parameter};
use vrl::compiler::state::TypeState;
use vrl::compiler::{Context, Expression, Function, FunctionExpression, Resolved, TypeDef};
use vrl::parser::ast::{
    Assignment, Block, Container, Expr, FunctionCall, IfStatement, Node, Op, Predicate,
    QueryTarget, RootExpr, Unary,
};
use vrl::parser::parse;
use vrl::prelude::Compiled;
use vrl::value::Value;

/// The name of the function that marks are calls of. No program may call it: the compiler knows it
/// while a test runs with marks, and at no other time.
const MARK: &str = "freehold_line_is_run";

thread_local! {
    /// The marks that were met on this thread; `None`: it runs without marks.
    static MET: RefCell<Option<BTreeSet<i64>>> = const { RefCell::new(None) };
}

/// A line with a statement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// What has the line: `block clean` or `function mask`.
    pub of: String,
    /// From 1.
    pub number: usize,
}

/// A Pipeline with marks in its programs.
pub(crate) struct Marked {
    pub definition: Definition,
    /// The line of each mark.
    lines: Vec<Line>,
}

/// The lines that were run, and all that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    pub all: BTreeSet<Line>,
    pub run: BTreeSet<Line>,
}

impl Lines {
    /// The lines that no record came to.
    pub fn missed(&self) -> impl Iterator<Item = &Line> {
        self.all.difference(&self.run)
    }
}

impl Marked {
    /// Puts marks into the programs of all transforms, and into the functions that they include.
    pub(crate) fn of(definition: &Definition) -> Self {
        let mut marked = Self {
            definition: definition.clone(),
            lines: Vec::new(),
        };
        let mut included = BTreeSet::new();
        for block in &mut marked.definition.blocks {
            if let Some(Transform { vrl, include, .. }) = &mut block.transform {
                *vrl = with_marks(vrl, &format!("block {}", block.name), &mut marked.lines);
                included.extend(include.iter().cloned());
            }
        }
        for (name, text) in &mut marked.definition.functions {
            if included.contains(name) {
                *text = with_marks(text, &format!("function {name}"), &mut marked.lines);
            }
        }
        marked
    }

    /// Does this while marks count; then all lines, and those that were run.
    pub(crate) fn count(&self, work: impl FnOnce()) -> Lines {
        MET.set(Some(BTreeSet::new()));
        work();
        let met = MET.take().unwrap_or_default();
        let line = |mark: i64| self.lines.get(usize::try_from(mark).ok()?).cloned();
        // A statement may begin in the middle of a line: all of them count.
        let mut run: BTreeSet<Line> = met.iter().filter_map(|mark| line(*mark)).collect();
        for (mark, line) in (0_i64..).zip(&self.lines) {
            if !met.contains(&mark) {
                run.remove(line);
            }
        }
        Lines {
            all: self.lines.iter().cloned().collect(),
            run,
        }
    }
}

/// Whether the compiler is to know the function of marks.
pub(crate) fn counts() -> bool {
    MET.with_borrow(Option::is_some)
}

fn with_marks(text: &str, of: &str, lines: &mut Vec<Line>) -> String {
    let Ok(program) = parse(text) else {
        return text.to_owned();
    };
    let mut starts = Starts {
        text,
        found: BTreeSet::new(),
    };
    for root in &program.0 {
        if let RootExpr::Expr(statement) = root.inner() {
            starts.found.insert(statement.start());
            starts.expression(statement);
        }
    }
    let (mut marked, mut end) = (String::new(), 0);
    for start in starts.found {
        let Some(before) = text.get(end..start) else {
            continue;
        };
        marked += before;
        marked += &format!("{MARK}({}); ", lines.len());
        lines.push(Line {
            of: of.to_owned(),
            number: text[..start].matches('\n').count() + 1,
        });
        end = start;
    }
    marked + &text[end..]
}

/// The positions at which statements begin.
struct Starts<'a> {
    text: &'a str,
    found: BTreeSet<usize>,
}

impl Starts<'_> {
    fn block(&mut self, block: &Node<Block>) {
        // The `else` before another `if` has no braces, and no place for a mark.
        let has_braces = self.text[block.start()..].starts_with('{');
        for statement in &block.inner().0 {
            if has_braces {
                self.found.insert(statement.start());
            }
            self.expression(statement);
        }
    }

    fn expression(&mut self, expression: &Node<Expr>) {
        match expression.inner() {
            Expr::Container(container) => self.container(container),
            Expr::IfStatement(statement) => self.if_statement(statement),
            Expr::Op(op) => {
                let Op(left, _, right) = op.inner();
                self.expression(left);
                self.expression(right);
            }
            Expr::Assignment(assignment) => match assignment.inner() {
                Assignment::Single { expr, .. } | Assignment::Infallible { expr, .. } => {
                    self.expression(expr);
                }
            },
            Expr::Query(query) => match query.inner().target.inner() {
                QueryTarget::FunctionCall(call) => self.call(call),
                QueryTarget::Container(container) => self.container(container),
                QueryTarget::Internal(_) | QueryTarget::External(_) => {}
            },
            Expr::FunctionCall(call) => self.call(call),
            Expr::Unary(unary) => {
                let Unary::Not(not) = unary.inner();
                self.expression(&not.inner().clone().take().1);
            }
            Expr::Abort(abort) => {
                if let Some(message) = &abort.inner().message {
                    self.expression(message);
                }
            }
            Expr::Return(returned) => self.expression(&returned.inner().expr),
            Expr::Literal(_) | Expr::Variable(_) | Expr::Break(_) => {}
        }
    }

    /// Arrays and objects hide what they have; a statement is rarely inside.
    fn container(&mut self, container: &Container) {
        match container {
            Container::Group(group) => self.expression(&group.inner().0),
            Container::Block(block) => self.block(block),
            Container::Array(_) | Container::Object(_) => {}
        }
    }

    fn if_statement(&mut self, statement: &Node<IfStatement>) {
        let IfStatement {
            predicate,
            if_node,
            else_node,
        } = statement.inner();
        match predicate.inner() {
            Predicate::One(one) => self.expression(one),
            Predicate::Many(many) => many.iter().for_each(|one| self.expression(one)),
        }
        self.block(if_node);
        if let Some(other) = else_node {
            self.block(other);
        }
    }

    fn call(&mut self, call: &FunctionCall) {
        for argument in &call.arguments {
            self.expression(&argument.inner().expr);
        }
        if let Some(closure) = &call.closure {
            self.block(&closure.inner().block);
        }
    }
}

/// The function of marks: notes its number.
#[derive(Debug)]
pub(crate) struct Mark;

impl Function for Mark {
    fn identifier(&self) -> &'static str {
        MARK
    }

    fn usage(&self) -> &'static str {
        "Notes that a line is run."
    }

    fn category(&self) -> &'static str {
        vrl::compiler::Category::Debug.as_ref()
    }

    fn return_kind(&self) -> u16 {
        vrl::prelude::kind::NULL
    }

    fn parameters(&self) -> &'static [Parameter] {
        const NUMBER: &[Parameter] = &[Parameter::required(
            "value",
            vrl::prelude::kind::INTEGER,
            "The number of the mark.",
        )];
        NUMBER
    }

    fn examples(&self) -> &'static [Example] {
        &[]
    }

    fn compile(
        &self,
        _: &TypeState,
        _: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let number = arguments.required("value");
        Ok(MarkCall { number }.as_expr())
    }
}

#[derive(Clone, Debug)]
struct MarkCall {
    number: Box<dyn Expression>,
}

impl FunctionExpression for MarkCall {
    fn resolve(&self, context: &mut Context) -> Resolved {
        if let Value::Integer(number) = self.number.resolve(context)? {
            MET.with_borrow_mut(|met| met.as_mut().map(|met| met.insert(number)));
        }
        Ok(Value::Null)
    }

    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::null().infallible()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_before_each_statement_and_none_between_else_and_if() {
        let text = "if .a == 1 { .b = 1 } else if .a == 2 {\n  .b = 2\n} else { .b = 3; .c = 4 }\n\
                    x = for_each(array!(.all)) -> |_i, _x| {\n  .n = 1\n}\n.d = { .e = 5\n  6 }";
        let mut lines = Vec::new();
        let marked = with_marks(text, "block b", &mut lines);
        let short = marked.replace(MARK, "m");
        assert_eq!(
            short,
            "m(0); if .a == 1 { m(1); .b = 1 } else if .a == 2 {\n  m(2); .b = 2\n} else { m(3); \
             .b = 3; m(4); .c = 4 }\nm(5); x = for_each(array!(.all)) -> |_i, _x| {\n  m(6); .n = \
             1\n}\nm(7); .d = { m(8); .e = 5\n  m(9); 6 }"
        );
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 1, 2, 3, 3, 4, 5, 7, 7, 8]);
    }
}
