//! `freehold pipeline history`, `diff` and `rollback`: the revisions of a Pipeline; `graph`: what it
//! does. They ask the API server with the rights of the person's kubeconfig.
#![allow(
    clippy::print_stderr,
    reason = "the advice is not a part of the output"
)]

use crate::api::pipeline::Pipeline;
use crate::cli::operator::MainError;
use crate::cli::pipeline::graph::{self, Format};
use crate::cli::pipeline::object::{self, parts, shown};
use crate::cli::pipeline::print::print;
use crate::cli::render;
use crate::kinds::pipeline::revisions::{self, Revision};
use crate::kubernetes::KubeError;
use freehold_pipeline::changes::changes;
use freehold_pipeline::definition::Definition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

/// The field manager that a revision names as its origin after a rollback.
const FIELD_MANAGER: &str = "freehold-rollback";
/// The operator writes status every few seconds, and each write is another resourceVersion.
const TRIES_MAX: u32 = 5;
const OF_GIT: &str = "If Argo CD or Flux applies this Pipeline from git, it undoes this: make the \
                      same change there (--output yaml prints it).";

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the revisions: number, time, who applied it, what it changed.
    History {
        /// The Pipeline: NAMESPACE/NAME.
        pipeline: String,
    },
    /// Say what is different between two revisions.
    Diff {
        /// The Pipeline: NAMESPACE/NAME.
        pipeline: String,
        /// Number of a revision.
        from: i64,
        /// Number of another one; default: the present spec.
        to: Option<i64>,
    },
    /// Print the graph with the state and the rates of each block, and how far a stage is behind.
    Graph {
        /// The Pipeline: NAMESPACE/NAME.
        pipeline: String,
        /// The form.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Change blocks, functions, errors and delivery back to those of a revision; everything else
    /// stays. The operator records it as a new revision.
    Rollback(Rollback),
}

#[derive(clap::Args)]
pub struct Rollback {
    /// The Pipeline: NAMESPACE/NAME.
    pipeline: String,
    /// Number of the revision.
    #[arg(long)]
    to: i64,
    /// Let the API server and the webhook check it, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// What is printed: the changes in words, or the part of the spec, to put it into git.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Yaml,
}

/// Runs one of the commands.
///
/// # Errors
/// There is no such Pipeline or revision; the API server refuses, or does not answer; the Pipeline
/// changed meanwhile.
pub fn main(command: &Command) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (Command::History { pipeline }
    | Command::Diff { pipeline, .. }
    | Command::Graph { pipeline, .. }
    | Command::Rollback(Rollback { pipeline, .. })) = command;
    parts(pipeline)?;
    let text = runtime.block_on(async {
        let client = object::client().await?;
        match command {
            Command::History { pipeline } => history(&client, pipeline).await,
            Command::Diff { pipeline, from, to } => diff(&client, pipeline, *from, *to).await,
            Command::Graph { pipeline, format } => {
                let object = object::found(&client, pipeline).await?;
                Ok(graph::of_running(&object, *format)?)
            }
            Command::Rollback(options) => rollback(&client, options).await,
        }
    })?;
    print(&text)?;
    if matches!(command, Command::Rollback(options) if !options.dry_run) {
        eprintln!("{OF_GIT}");
    }
    Ok(())
}

async fn history(client: &Client, name: &str) -> Result<String, MainError> {
    let (_, known) = found(client, name).await?;
    Ok(table(&known))
}

async fn diff(
    client: &Client,
    name: &str,
    from: i64,
    to: Option<i64>,
) -> Result<String, MainError> {
    let (object, known) = found(client, name).await?;
    let from = numbered(&known, from)?;
    let to = match to {
        Some(to) => numbered(&known, to)?.definition.clone(),
        None => object.spec.definition(),
    };
    Ok(printed(&in_words(&from.definition, &to)))
}

async fn rollback(client: &Client, options: &Rollback) -> Result<String, MainError> {
    let (object, known) = found(client, &options.pipeline).await?;
    let wanted = &numbered(&known, options.to)?.definition;
    let present = object.spec.definition();
    if present != *wanted {
        change(client, &object, wanted, options.dry_run).await?;
    }
    match options.output {
        Output::Text => Ok(printed(&in_words(&present, wanted))),
        Output::Yaml => render::yaml(&json!({"spec": wanted})),
    }
}

/// Changes the graph of a Pipeline, unless its spec changed since it was read.
///
/// # Errors
/// It changed; the API server or the webhook refuses, or does not answer.
async fn change(
    client: &Client,
    object: &Pipeline,
    wanted: &Definition,
    dry_run: bool,
) -> Result<(), MainError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<Pipeline> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let mut version = object.resource_version();
    for _ in 0..TRIES_MAX {
        let patch = patch(object, version.as_deref(), wanted)?;
        // The answer is not read: a newer version may have a status that this one does not know.
        let answer = api
            .patch_metadata(&name, &params, &Patch::Merge(&patch))
            .await;
        match answer {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(KubeError::request("change", "Pipeline", &name)(error)
                    .words()
                    .into());
            }
            Ok(_) => return Ok(()),
        }
        let now = api.get_metadata(&name).await?.metadata;
        if (&now.uid, now.generation) != (&object.metadata.uid, object.metadata.generation) {
            break;
        }
        version = now.resource_version;
    }
    Err(format!(
        "Pipeline {namespace}/{name} changed meanwhile, and nothing was done; see what changed \
         (freehold pipeline history {namespace}/{name}) and try again"
    )
    .into())
}

/// The merge patch to another graph, for exactly this version of the object.
fn patch(
    object: &Pipeline,
    version: Option<&str>,
    wanted: &Definition,
) -> Result<Value, serde_json::Error> {
    let present = serde_json::to_value(object.spec.definition())?;
    Ok(json!({
        "metadata": {"uid": object.uid(), "resourceVersion": version},
        "spec": merge(&present, &serde_json::to_value(wanted)?),
    }))
}

/// The merge patch (RFC 7396) that makes one value of another. Fields that are gone become null;
/// lists are replaced whole.
fn merge(was: &Value, is: &Value) -> Value {
    let (Value::Object(was), Value::Object(is)) = (was, is) else {
        return is.clone();
    };
    let gone = was.keys().filter(|key| !is.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in is {
        let before = was.get(key).unwrap_or(&Value::Null);
        patch.insert(key.clone(), merge(before, value));
    }
    Value::Object(patch)
}

/// A Pipeline and its revisions, the oldest first.
async fn found(client: &Client, name: &str) -> Result<(Pipeline, Vec<Revision>), MainError> {
    let object = object::found(client, name).await?;
    let known = revisions::list(client, &object).await;
    let known = known.map_err(|error| error.words())?;
    if known.is_empty() {
        let why = "no revision is recorded yet: the operator records a graph that it runs";
        return Err(format!("Pipeline {name}: {why}").into());
    }
    Ok((object, known))
}

fn numbered(known: &[Revision], number: i64) -> Result<&Revision, String> {
    let found = known.iter().find(|revision| revision.number == number);
    found.ok_or_else(|| {
        let all: Vec<String> = known.iter().map(|one| one.number.to_string()).collect();
        format!(
            "there is no revision {number}; there are: {}",
            all.join(", ")
        )
    })
}

/// What is different, a line for each change.
fn in_words(was: &Definition, is: &Definition) -> Vec<String> {
    let lines = changes(was, is);
    match lines.is_empty() {
        true if was == is => vec!["no changes".to_owned()],
        true => vec!["the order of blocks".to_owned()],
        false => lines,
    }
}

fn printed(lines: &[String]) -> String {
    lines.iter().map(|line| shown(line) + "\n").collect()
}

/// The revisions as a table, with a line for each change.
fn table(known: &[Revision]) -> String {
    let head = ["REVISION", "TIME", "APPLIED BY"].map(str::to_owned);
    let mut rows = vec![(head, vec!["CHANGES".to_owned()])];
    rows.extend(known.iter().map(|one| {
        let time = one.since.as_ref().map(|since| since.0.to_string());
        let cells = [
            one.number.to_string(),
            time.unwrap_or_default(),
            shown(&one.applied_by),
        ];
        (cells, one.changes.iter().map(|line| shown(line)).collect())
    }));
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| cells[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for (cells, changes) in &rows {
        for place in 0..changes.len().max(1) {
            for (cell, width) in cells.iter().zip(widths) {
                let cell = if place == 0 { cell } else { "" };
                text += &format!("{cell:<width$}  ");
            }
            text += changes.get(place).map_or("", String::as_str);
            text = text.trim_end().to_owned() + "\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    fn definition(value: Value) -> Definition {
        serde_json::from_value(value).unwrap()
    }

    fn first() -> Definition {
        definition(json!({
            "functions": {"mask": "del(.card)"},
            "errors": {"deadLetter": {"topic": "bad"}},
            "blocks": [{"name": "in", "source": {"kafka": {"topic": "orders"}}}],
        }))
    }

    fn second() -> Definition {
        definition(json!({
            "delivery": "AtLeastOnce",
            "functions": {"strip": "del(.card)"},
            "errors": {"policy": "Skip"},
            "blocks": [{"name": "in", "source": {"kafka": {"topic": "orders-2"}}}],
        }))
    }

    fn pipeline(generation: i64) -> Value {
        let mut spec = serde_json::to_value(second()).unwrap();
        spec["clusterRef"] = json!({"name": "demo"});
        spec["replicas"] = json!(3);
        json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline", "spec": spec,
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u",
                "resourceVersion": "7", "generation": generation}})
    }

    fn revision(number: i64, definition: Definition, changes: &[&str]) -> Revision {
        Revision {
            number,
            definition,
            applied_by: "kubectl".to_owned(),
            changes: changes.iter().map(ToString::to_string).collect(),
            name: format!("orders-r{number}"),
            since: serde_json::from_value(json!("2026-01-01T10:00:00Z")).unwrap(),
        }
    }

    /// What RFC 7396 says of the receiver of a patch.
    fn patched(value: &Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut value = value.as_object().cloned().unwrap_or_default();
        for (key, change) in patch {
            match change {
                Value::Null => drop(value.remove(key)),
                change => {
                    let before = value.get(key).cloned().unwrap_or_default();
                    value.insert(key.clone(), patched(&before, change));
                }
            }
        }
        Value::Object(value)
    }

    #[test]
    fn the_patch_replaces_the_graph_and_nothing_else() {
        let object: Pipeline = serde_json::from_value(pipeline(2)).unwrap();
        let patch = patch(&object, Some("7"), &first()).unwrap();
        let keys: Vec<&String> = patch["spec"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["blocks", "delivery", "errors", "functions"]);
        assert_eq!(
            patch["metadata"],
            json!({"uid": "u", "resourceVersion": "7"})
        );
        let after: Pipeline = serde_json::from_value(patched(&pipeline(2), &patch)).unwrap();
        assert_eq!(after.spec.definition(), first());
        assert_eq!(after.spec.replicas, 3);
    }

    #[test]
    fn a_table_has_a_line_for_each_change_and_no_control_characters() {
        let known = [
            revision(1, first(), &["first revision"]),
            revision(12, second(), &["block in: a", "block out: \u{1b}[2J"]),
        ];
        assert_eq!(
            table(&known),
            "REVISION  TIME                  APPLIED BY  CHANGES\n\
             1         2026-01-01T10:00:00Z  kubectl     first revision\n\
             12        2026-01-01T10:00:00Z  kubectl     block in: a\n\
             \x20                                           block out: \u{fffd}[2J\n"
        );
        assert_eq!(
            numbered(&known, 3).unwrap_err(),
            "there is no revision 3; there are: 1, 12"
        );
    }

    #[test]
    fn differences_are_words_also_when_there_are_none() {
        let words = in_words(&first(), &second());
        assert!(
            words.contains(&"function mask removed".to_owned()),
            "{words:?}"
        );
        assert_eq!(in_words(&first(), &first()), ["no changes"]);
        let mut two = second();
        two.blocks
            .extend(definition(json!({"blocks": [{"name": "b"}]})).blocks);
        let mut turned = two.clone();
        turned.blocks.reverse();
        assert_eq!(in_words(&two, &turned), ["the order of blocks"]);
    }

    /// Rolls back with an API server in memory that refuses the first change, and after that has
    /// this generation of the object. Returns the result and the queries of all changes.
    async fn rolled_back(generation_after: i64, dry_run: bool) -> (Result<String, String>, String) {
        let queries: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&queries);
        let answer = move |request: Request<Body>| {
            let mut noted = noted.lock().unwrap();
            let is_patch = request.method() == Method::PATCH;
            if is_patch {
                noted.push(request.uri().query().unwrap_or_default().to_owned());
            }
            let (code, value) = match (is_patch, noted.len()) {
                (true, 1) => (
                    409,
                    json!({"kind": "Status", "status": "Failure", "code": 409,
                    "reason": "Conflict", "message": "the object has been modified"}),
                ),
                _ if request.uri().path().ends_with("/controllerrevisions") => (
                    200,
                    json!({
                    "metadata": {}, "items": [{
                        "metadata": {"name": "orders-r1", "ownerReferences": [{"uid": "u",
                            "apiVersion": "v", "kind": "Pipeline", "name": "orders"}]},
                        "revision": 1, "data": first(),
                    }]}),
                ),
                (_, 0) => (200, pipeline(2)),
                _ => (200, pipeline(generation_after)),
            };
            let body = Body::from(value.to_string().into_bytes());
            let answer = Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, Infallible>(answer) }
        };
        let client = Client::new(tower::service_fn(answer), "shop");
        let options = Rollback {
            pipeline: "shop/orders".to_owned(),
            to: 1,
            dry_run,
            output: Output::Text,
        };
        let result = rollback(&client, &options).await;
        let queries = queries.lock().unwrap().join(" ");
        (result.map_err(|error| error.to_string()), queries)
    }

    #[tokio::test]
    async fn a_write_of_the_status_meanwhile_is_no_change_and_another_spec_is_one() {
        let (result, queries) = rolled_back(2, true).await;
        assert!(
            result
                .unwrap()
                .contains("delivery: AtLeastOnce -> ExactlyOnce")
        );
        let once = "&dryRun=All&fieldManager=freehold-rollback";
        assert_eq!(queries, format!("{once} {once}"));
        let (result, queries) = rolled_back(3, false).await;
        let said = result.unwrap_err();
        assert!(
            said.contains("Pipeline shop/orders changed meanwhile"),
            "{said}"
        );
        assert_eq!(queries, "&fieldManager=freehold-rollback");
    }
}
