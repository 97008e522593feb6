//! Compiles programs that nobody has vouched for, without danger for the process.
//!
//! The compiler of VRL recurses over a program, and its time can grow with the power of its
//! nesting: a hundred letters can keep it busy for an hour, or overflow a stack, which ends the
//! whole process. So the webhook and the command line compile in a child process with limits of
//! CPU time and memory ([`check_in_child`]); what compiled there compiles in the runner.

use crate::compile::place;
use crate::validate::validate;
use freehold_pipeline::checks::{check, programs};
use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::topics::TopicNames;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Nesting of brackets in a program.
pub const NESTING_MAX: usize = 64;
/// Longest chain of operators in one expression: `a || b || …` is as deep as it is long.
pub const CHAIN_MAX: usize = 200;
/// Uses of `else`: the compiler's time grows with the square of a chain of them.
pub const ELSE_MAX: usize = 100;
/// CPU time of a child: a Pipeline of the largest size needs less than one second.
const CHILD_CPU_SECS: u64 = 2;
/// Memory of a child, with its stack. The child is in the memory limit of the webhook's container
/// (256Mi by default), which Kubernetes ends whole when it is exceeded.
const CHILD_BYTES: u64 = 128 * 1024 * 1024;
/// Stack of a child, a part of its memory: what is compiled on it is compiled on a larger one by
/// the runner.
const CHILD_STACK_BYTES: usize = 64 * 1024 * 1024;
/// When a child that gets no CPU time is given up.
const CHILD_PATIENCE: Duration = Duration::from_secs(60);
/// Address space; only what is used is taken from memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Runs a function on a thread with a large stack, and waits for it.
///
/// # Errors
/// There is no thread, or it panicked.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    on_stack(STACK_BYTES, work)
}

fn on_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|error| format!("no thread for the compiler: {error}"))?;
        thread
            .join()
            .map_err(|_| "the compiler of VRL panicked".to_owned())
    })
}

/// What a child is asked.
#[derive(Serialize, Deserialize)]
struct Question {
    definition: Definition,
    names: TopicNames,
}

/// A line of a child's output. The last one of a child that dies says where it was.
#[derive(Serialize, Deserialize)]
enum Line {
    /// The next block: its field and its name.
    Compiles(String, String),
    /// Warnings, or what the Pipeline is refused for.
    Answer(Result<Vec<Finding>, Vec<Finding>>),
}

/// The child's side: reads a question, and writes the answer. Limits itself first.
///
/// # Errors
/// The limits cannot be set, or the question is malformed.
pub fn serve(mut input: impl Read, mut output: impl Write + Send) -> Result<(), std::io::Error> {
    let limit = |resource, most: u64| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    limit(Resource::Cpu, CHILD_CPU_SECS)?;
    limit(Resource::Data, CHILD_BYTES)?;
    limit(Resource::Core, 0)?;
    let mut question = Vec::new();
    input.read_to_end(&mut question)?;
    let Question { definition, names } = serde_json::from_slice(&question)?;
    let mut told = Ok(());
    let answer = on_stack(CHILD_STACK_BYTES, || {
        validate(&definition, &names, |node| {
            let line = Line::Compiles(node.field.clone(), node.block.name.clone());
            told = tell(&mut output, &line);
        })
    });
    told?;
    let answer = answer.unwrap_or_else(|why| Err(vec![Finding::error("blocks", why)]));
    tell(&mut output, &Line::Answer(answer))
}

fn tell(output: &mut impl Write, line: &Line) -> Result<(), std::io::Error> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// Checks a Pipeline whole in a child process. The command must call [`serve`] with its standard
/// input and output. Blocks for at most a minute.
///
/// # Errors
/// All findings, if one of them is an error; else they are warnings.
pub fn check_in_child(
    mut command: Command,
    definition: &Definition,
    names: &TopicNames,
) -> Result<Vec<Finding>, Vec<Finding>> {
    let refused = |why: String| vec![Finding::error("blocks", why)];
    let (_, warnings) = check(definition, names)?;
    if definition
        .blocks
        .iter()
        .all(|block| programs(block).is_empty())
    {
        // Nothing to compile.
        return Ok(warnings);
    }
    let question = Question {
        definition: definition.clone(),
        names: names.clone(),
    };
    let question = serde_json::to_vec(&question)
        .map_err(|error| refused(format!("cannot be written: {error}")))?;
    let child = command
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let child = child.map_err(|error| refused(format!("the compiler does not start: {error}")))?;
    let (said, status) = ask(child, question).map_err(refused)?;
    let last = said
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    match last.map(serde_json::from_slice) {
        Some(Ok(Line::Answer(answer))) => answer,
        Some(Ok(Line::Compiles(field, block))) => {
            let why = format!(
                "the programs up to this block need more than {CHILD_CPU_SECS} s of CPU time, or \
                 more than {} MiB of memory, to compile ({status}): make its program shorter, \
                 look values up in an object, split it over two transforms, or nest calls and \
                 operators less: assign parts to variables",
                CHILD_BYTES / 1024 / 1024
            );
            Err(vec![Finding::error(field, why).of_block(block)])
        }
        Some(Err(error)) => Err(refused(format!("the compiler's answer: {error}"))),
        None => Err(refused(format!(
            "the compiler ended without an answer ({status})"
        ))),
    }
}

/// Gives the question to the child, and waits for its end.
fn ask(mut child: Child, question: Vec<u8>) -> Result<(Vec<u8>, ExitStatus), String> {
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the compiler has no standard input and output".to_owned());
    };
    // A child that has died does not read: its end says why.
    std::thread::spawn(move || input.write_all(&question));
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut answer = Vec::new();
        let read = output.read_to_end(&mut answer);
        sender.send(read.map(|_| answer))
    });
    let answer = receiver.recv_timeout(CHILD_PATIENCE);
    if answer.is_err() {
        // It may have ended by itself in between.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match answer {
        Ok(Ok(answer)) => Ok((answer, status)),
        Ok(Err(error)) => Err(format!("the compiler's answer: {error}")),
        Err(_) => Err("the compiler gets no CPU time; try again".to_owned()),
    }
}

/// Whether a program is nested too deeply for the compiler.
///
/// # Errors
/// What is too deep, with its line and column, both from 1.
pub fn nesting(program: &str) -> Result<(), (usize, usize, String)> {
    if let Some((at, _)) = program.match_indices("else").nth(ELSE_MAX) {
        let (line, column) = place(program, at);
        let why = format!("more than {ELSE_MAX} else; use an object to look up");
        return Err((line, column, why));
    }
    let (mut depth, mut chain, mut path) = (0_usize, 0_usize, 0_usize);
    let mut last = ' ';
    for (index, line) in program.lines().enumerate() {
        // An expression goes on over the end of a line behind an operator, and before one.
        let first = line.trim_start().chars().next().unwrap_or(' ');
        let goes_on = is_operator(last) || (is_operator(first) && !"!-%".contains(first));
        if !goes_on {
            chain = 0;
        }
        for (column, letter) in line.chars().enumerate() {
            match letter {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                '}' => {
                    depth = depth.saturating_sub(1);
                    chain = 0;
                }
                ';' => chain = 0,
                letter if is_operator(letter) => chain += 1,
                _ => {}
            }
            match letter {
                '.' => path += 1,
                letter if letter.is_alphanumeric() || letter == '_' => {}
                _ => path = 0,
            }
            let wrong = |why: String| Err((index + 1, column + 1, why));
            if path > CHAIN_MAX {
                return wrong(format!(
                    "a path of more than {CHAIN_MAX} fields; assign a part of it to a variable"
                ));
            }
            if !letter.is_whitespace() {
                last = letter;
            }
            if depth > NESTING_MAX {
                return wrong(format!(
                    "nested deeper than {NESTING_MAX} brackets; assign inner parts to variables"
                ));
            }
            if chain > CHAIN_MAX {
                return wrong(format!(
                    "more than {CHAIN_MAX} operators in one expression; assign parts to variables"
                ));
            }
        }
    }
    Ok(())
}

/// Whether a letter is an operator, or part of one: each may be a level of the tree.
fn is_operator(letter: char) -> bool {
    "!-+*/%|&?=<>".contains(letter)
}
