//! `freehold replay`: asks the operator to send dead letters through their block again, follows it
//! in the Pipeline's status, and says what came of it. It uses the rights of the person's
//! kubeconfig.
#![allow(
    clippy::print_stderr,
    reason = "progress and advice are not a part of the output"
)]

use crate::api::conditions::ConditionType;
use crate::api::pipeline::Pipeline;
use crate::api::replay::{ReplayState, ReplayStatus, Request};
use crate::cli::operator::MainError;
use crate::cli::pipeline::object::{self, parts, shown};
use crate::cli::pipeline::print::print;
use crate::kubernetes::{KubeError, labels};
use freehold_pipeline::duration::Duration as Period;
use freehold_pipeline::nearest::instead;
use freehold_pipeline::replay::TIMES_MAX;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const FIELD_MANAGER: &str = "freehold-replay";
/// The operator writes status every few seconds, and each write is another resourceVersion.
const TRIES_MAX: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The operator sees a request within this time, unless the Pipeline or its cluster waits for
/// something.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// The API server may be away for this many looks.
const MISSED_MAX: u32 = 60;

#[derive(clap::Args)]
pub struct Options {
    /// The Pipeline: NAMESPACE/NAME.
    pipeline: String,
    /// The block that failed on the records.
    block: String,
    /// Only letters whose error has this text in it.
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only letters that were written at this time or later: 2026-01-31T10:00:00Z, 2026-01-31, 2026, or 2h for two
    /// hours ago. Default: when the last replay of this block was started.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only letters that were written before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Most records a second.
    #[arg(long, value_name = "RECORDS")]
    rate: Option<u32>,
    /// Write nothing: only say how many records would go through.
    #[arg(long)]
    dry_run: bool,
    /// End the replay of this block that runs. What it has committed stays.
    #[arg(long, conflicts_with_all = ["error", "since", "until", "rate", "dry_run"])]
    cancel: bool,
}

/// Replays dead letters, or ends a replay.
///
/// # Errors
/// The replay was refused, failed, was cancelled by somebody else, or stopped; there is no such
/// Pipeline or block; the API server refuses, or does not answer.
pub fn main(options: &Options) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    parts(&options.pipeline)?;
    let said = runtime.block_on(async {
        let client = object::client().await?;
        match options.cancel {
            true => cancel(&client, options).await,
            false => replay(&client, options).await,
        }
    })?;
    Ok(print(&format!("{said}\n"))?)
}

async fn replay(client: &Client, options: &Options) -> Result<String, MainError> {
    let name = &options.pipeline;
    let object = object::found(client, name).await?;
    let (request, note) = request(&object, options, Timestamp::now())?;
    let text = serde_json::to_string(&request)?;
    if text.len() > labels::ASKED_CHARS_MAX {
        return Err("--error: too long; give a shorter part of the error".into());
    }
    if let Some(note) = note {
        eprintln!("{}", shown(&note));
    }
    annotate(client, name, |object| {
        is_free(object)?;
        Ok(Some(json!(text)))
    })
    .await?;
    eprintln!(
        "replay {} is asked for; it goes on without this command, and `freehold replay {name} {} \
         --cancel` ends it",
        request.id, request.block
    );
    let stops = |known: &ReplayStatus| known.is_over() || known.state == ReplayState::Stopped;
    let status = follow(client, name, &request.id, stops).await?;
    if status.is_over() {
        // It is in the status from now on.
        annotate(client, name, |object| {
            Ok(is_asked(object, &request.id).then_some(Value::Null))
        })
        .await?;
    }
    match status.state {
        ReplayState::Done => Ok(sentence(&status)),
        _ => Err(sentence(&status).into()),
    }
}

async fn cancel(client: &Client, options: &Options) -> Result<String, MainError> {
    let (name, block) = (&options.pipeline, &options.block);
    let object = object::found(client, name).await?;
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.replay.as_ref());
    let runs = known.filter(|known| known.is_under_way());
    match (runs, asked(&object)) {
        (Some(known), _) if known.block != *block => Err(format!(
            "the replay that runs is one of block {}; give that block to end it",
            shown(&known.block)
        )
        .into()),
        (Some(known), _) => {
            annotate(client, name, |_| Ok(Some(Value::Null))).await?;
            let status = follow(client, name, &known.id, ReplayStatus::is_over).await?;
            Ok(sentence(&status))
        }
        (None, Some(Ok(request))) if request.block == *block => {
            annotate(client, name, |_| Ok(Some(Value::Null))).await?;
            Ok(format!(
                "replay {} does not run; its request is removed",
                request.id
            ))
        }
        (None, _) => Err(format!("no replay of block {block} runs").into()),
    }
}

/// What the annotation asks for, if there is one.
fn asked(object: &Pipeline) -> Option<Result<Request, String>> {
    let text = object.annotations().get(labels::REPLAY)?;
    Some(Request::read(text))
}

fn is_asked(object: &Pipeline, id: &str) -> bool {
    matches!(asked(object), Some(Ok(request)) if request.id == id)
}

/// The request, and what a person should know of it.
///
/// # Errors
/// It would be refused, or is not what the options mean.
fn request(
    object: &Pipeline,
    options: &Options,
    now: Timestamp,
) -> Result<(Request, Option<String>), String> {
    let blocks = &object.spec.blocks;
    let block = &options.block;
    if !blocks.iter().any(|known| known.name == *block) {
        let names = blocks.iter().map(|block| &*block.name);
        return Err(format!(
            "there is no block {block}; {}",
            instead(block, names)
        ));
    }
    if object.spec.errors.dead_letter.is_none() {
        return Err(format!(
            "Pipeline {} has no spec.errors.deadLetter, so there are no dead letters",
            options.pipeline
        ));
    }
    is_free(object)?;
    let time = |option: &str, text: &Option<String>| {
        let time = text.as_ref().map(|text| time(text, now)).transpose();
        time.map_err(|why| format!("{option} {why}"))
    };
    let (since, note) = match time("--since", &options.since)? {
        Some(since) => (Some(since), None),
        None => since(object, options)?,
    };
    let request = Request {
        id: id(now),
        block: block.clone(),
        error: options.error.clone(),
        since,
        until: time("--until", &options.until)?,
        records_per_second: options.rate,
        dry_run: options.dry_run,
    };
    let text = serde_json::to_string(&request).map_err(|error| error.to_string())?;
    Ok((Request::read(&text)?, note))
}

/// Where a replay begins if nobody says it: the last one of the block took what was there before.
fn since(object: &Pipeline, options: &Options) -> Result<(Option<Time>, Option<String>), String> {
    let block = &options.block;
    let past = object.status.iter().flat_map(|status| &status.replays);
    let Some(last) = past.into_iter().find(|past| past.block == *block) else {
        return Ok((None, None));
    };
    let Some(started) = last.started_at.clone() else {
        return Ok((None, None));
    };
    let (id, at) = (&last.id, started.0);
    let has_all = last.until.is_none() && (last.error.is_none() || last.error == options.error);
    if last.state == ReplayState::Done && has_all {
        let note = format!(
            "letters from before {at} are left out: replay {id} of block {block} took them; with \
             --since 1970 they are taken too, and what it wrote is written again"
        );
        return Ok((Some(started), Some(note)));
    }
    let what = match last.state {
        ReplayState::Done => "left out letters by its --error or --until".to_owned(),
        state => format!("ended before it had read all letters ({state:?})"),
    };
    let why = format!(
        "replay {id} of block {block}, started at {at}, {what}; with --since {at} only newer \
         letters are taken; with --since 1970 all are, and what it wrote is written again"
    );
    match options.dry_run {
        true => Ok((None, Some(why))),
        false => Err(format!("--since: {why}")),
    }
}

/// Whether nothing is asked for, or under way.
///
/// # Errors
/// Something is.
fn is_free(object: &Pipeline) -> Result<(), String> {
    let name = format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    );
    if object.metadata.deletion_timestamp.is_some() {
        return Err(format!("Pipeline {name} is being deleted"));
    }
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.replay.as_ref());
    let busy = |id: &str, block: &str| {
        Err(shown(&format!(
            "a replay of block {block} runs already ({id}); wait until it is Done, or end it by \
             `freehold replay {name} {block} --cancel`"
        )))
    };
    if let Some(known) = known.filter(|known| !known.is_over()) {
        return busy(&known.id, &known.block);
    }
    match asked(object) {
        Some(Ok(request)) if known.is_none_or(|known| known.id != request.id) => {
            busy(&request.id, &request.block)
        }
        _ => Ok(()),
    }
}

/// A name that no request had before.
fn id(now: Timestamp) -> String {
    format!(
        "r{}-{:04x}",
        now.strftime("%Y%m%d-%H%M%S"),
        rand::random::<u16>()
    )
}

/// A time as people write it.
fn time(text: &str, now: Timestamp) -> Result<Time, String> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let whole = match (text.len(), digits) {
        (4, 4) => format!("{text}-01-01T00:00:00Z"),
        (10, 8) => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    if let Ok(period) = text.parse::<Period>() {
        let before = now.checked_sub(Duration::from(period));
        return before
            .map(Time)
            .map_err(|error| format!("{text:?}: {error}"));
    }
    whole.parse::<Timestamp>().map(Time).map_err(|_| {
        format!(
            "{text:?}: a time is 2026-01-31T10:00:00Z, 2026-01-31, 2026, or 2h for two hours ago"
        )
    })
}

/// Sets or removes the annotation, as `to` says of the Pipeline as it is; nothing where it says
/// nothing.
async fn annotate(
    client: &Client,
    name: &str,
    to: impl Fn(&Pipeline) -> Result<Option<Value>, String>,
) -> Result<(), MainError> {
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    for _ in 0..TRIES_MAX {
        let object = object::found(client, name).await?;
        let Some(value) = to(&object)? else {
            return Ok(());
        };
        let patch = json!({"metadata": {
            "uid": object.uid(), "resourceVersion": object.resource_version(),
            "annotations": {labels::REPLAY: value},
        }});
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<Pipeline> = Api::namespaced(client.clone(), &namespace);
        // The answer is not read: a newer version may have a status that this one does not know.
        let answer = api
            .patch_metadata(&object.name_any(), &params, &Patch::Merge(&patch))
            .await;
        match answer {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                let error = KubeError::request("annotate", "Pipeline", name)(error);
                return Err(error.words().into());
            }
            Ok(_) => return Ok(()),
        }
    }
    Err(format!("Pipeline {name} changes all the time; try again").into())
}

/// Waits until a replay is as `until` says.
async fn follow(
    client: &Client,
    name: &str,
    id: &str,
    until: impl Fn(&ReplayStatus) -> bool,
) -> Result<ReplayStatus, MainError> {
    let (begin, mut missed) = (Instant::now(), 0);
    let (mut said, mut is_seen, mut is_silent) = (String::new(), false, false);
    loop {
        let object = match object::found(client, name).await {
            Ok(object) => object,
            Err(error) if missed >= MISSED_MAX => return Err(error),
            Err(_) => {
                missed += 1;
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
        };
        missed = 0;
        let known = object
            .status
            .as_ref()
            .and_then(|status| status.replay.as_ref());
        match known.filter(|known| known.id == id) {
            Some(known) if until(known) => return Ok(known.clone()),
            Some(known) => {
                is_seen = true;
                let now = progress(known);
                if now != said {
                    eprintln!("{now}");
                    said = now;
                }
                let is_cancelled = !is_asked(&object, id);
                if is_cancelled && !is_silent && begin.elapsed() > SILENT_MAX {
                    is_silent = true;
                    eprintln!("the operator has not ended it yet: {}", ready(&object));
                }
            }
            None if is_seen || !is_asked(&object, id) => {
                return Err(format!("replay {id} is gone from Pipeline {name}").into());
            }
            None if !is_silent && begin.elapsed() > SILENT_MAX => {
                is_silent = true;
                eprintln!("the operator has not begun it yet: {}", ready(&object));
            }
            None => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What the Pipeline says of itself.
fn ready(object: &Pipeline) -> String {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.kind == ConditionType::Ready);
    let said = ready
        .next()
        .map(|ready| format!("{}: {}", ready.reason, ready.message));
    shown(&said.unwrap_or_else(|| "the Pipeline has no status".to_owned()))
}

/// How far it is, with rounded counts.
fn progress(status: &ReplayStatus) -> String {
    if !status.is_under_way() && !status.is_over() {
        return format!(
            "{:?}: its pod and its consumer group are being removed",
            status.state
        );
    }
    if !status.message.is_empty() {
        return shown(&format!("{:?}: {}", status.state, status.message));
    }
    format!(
        "{:?}: {} letters read, {} left; {} went through, {} failed",
        status.state, status.read, status.left, status.replayed, status.failed
    )
}

/// What came of a replay.
fn sentence(status: &ReplayStatus) -> String {
    let ReplayStatus {
        id,
        block,
        read,
        matched,
        replayed,
        failed,
        given_up,
        message,
        ..
    } = status;
    let through = match (status.dry_run, status.state) {
        (true, _) => format!("{replayed} would go through, {failed} would fail again"),
        (false, _) => {
            format!("{replayed} went through, {failed} failed again and are dead letters anew")
        }
    };
    let counts = format!(
        "of {read} dead letters read, {matched} were asked for: {through}, {given_up} stay because \
         they were replayed {TIMES_MAX} times or are not whole"
    );
    let text = match (status.state, status.dry_run) {
        (ReplayState::Refused, _) => format!("the replay is refused: {message}"),
        (ReplayState::Done, true) => {
            format!("dry run {id} of block {block}: {counts}; nothing was written")
        }
        (ReplayState::Done, false) => format!("replay {id} of block {block}: {counts}"),
        (state, _) => {
            format!("replay {id} of block {block}: {state:?}: {message}; so far {counts}")
        }
    };
    shown(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn pipeline(status: &Value) -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
            "spec": {"clusterRef": {"name": "demo"}, "errors": {"deadLetter": {"topic": "bad"}},
                "blocks": [
                    {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                    {"name": "clean", "from": ["in"], "transform": {"vrl": "."}}]},
            "status": status,
        }))
        .unwrap()
    }

    fn options(block: &str, dry_run: bool) -> Options {
        Options {
            pipeline: "shop/orders".to_owned(),
            block: block.to_owned(),
            error: None,
            since: None,
            until: None,
            rate: None,
            dry_run,
            cancel: false,
        }
    }

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn past(state: &str) -> Value {
        json!({"replays": [
            {"id": "b", "block": "in", "state": "Done", "startedAt": "2026-02-02T00:00:00Z"},
            {"id": "a", "block": "clean", "state": state, "startedAt": "2026-02-01T00:00:00Z"},
            {"id": "0", "block": "clean", "state": "Done", "startedAt": "2026-01-01T00:00:00Z"},
        ]})
    }

    #[test]
    fn it_goes_on_where_the_last_replay_of_the_block_was_started() {
        let object = pipeline(&past("Done"));
        let (found, note) = request(&object, &options("clean", false), now()).unwrap();
        let since = found.since.unwrap().0.to_string();
        assert_eq!(since, "2026-02-01T00:00:00Z");
        assert!(note.unwrap().contains("--since 1970"));
        let given = Options {
            since: Some("1970".to_owned()),
            ..options("clean", false)
        };
        let (found, note) = request(&object, &given, now()).unwrap();
        assert_eq!((found.since.unwrap().0.as_second(), note), (0, None));
        let (found, note) = request(&pipeline(&json!({})), &given, now()).unwrap();
        assert!(found.since.is_some() && note.is_none());
        let none = request(&pipeline(&json!({})), &options("clean", false), now());
        assert!(matches!(none.unwrap(), (Request { since: None, .. }, None)));
    }

    #[test]
    fn after_a_replay_of_some_errors_letters_of_others_are_not_passed_over() {
        let since = |key: &str, value: &str, error: Option<&str>| {
            let mut past = past("Done");
            past["replays"][1][key] = json!(value);
            let options = Options {
                error: error.map(str::to_owned),
                ..options("clean", false)
            };
            request(&pipeline(&past), &options, now())
        };
        let why = since("error", "not a number", Some("no such field")).unwrap_err();
        assert!(why.contains("left out letters"), "{why}");
        assert!(since("error", "not a number", None).is_err());
        assert!(since("until", "2026-01-15T00:00:00Z", None).is_err());
        let (found, _) = since("error", "not a number", Some("not a number")).unwrap();
        assert!(found.since.is_some());
    }

    #[test]
    fn after_a_replay_that_did_not_end_a_person_says_where_to_go_on() {
        let object = pipeline(&past("Cancelled"));
        let why = request(&object, &options("clean", false), now()).unwrap_err();
        assert!(
            why.contains("--since") && why.contains("Cancelled"),
            "{why}"
        );
        let (found, note) = request(&object, &options("clean", true), now()).unwrap();
        assert!(found.since.is_none() && note.is_some() && found.dry_run);
    }

    #[test]
    fn what_the_operator_would_refuse_is_refused_at_once() {
        let refused = |object: &Pipeline, block: &str| {
            request(object, &options(block, false), now()).unwrap_err()
        };
        let mut object = pipeline(&json!({}));
        let why = refused(&object, "claen");
        assert_eq!(why, "there is no block claen; did you mean clean?");
        let running = pipeline(&json!({"replay": {"id": "r", "block": "in", "state": "Running"}}));
        let why = refused(&running, "clean");
        assert!(
            why.contains("`freehold replay shop/orders in --cancel`"),
            "{why}"
        );
        let ends = pipeline(&json!({"replay": {"id": "r", "block": "in", "state": "Done"}}));
        assert!(
            refused(&ends, "clean").contains("runs already"),
            "its group is still there"
        );
        let asked = r#"{"id": "q", "block": "in"}"#.to_owned();
        object.metadata.annotations = Some(BTreeMap::from([(labels::REPLAY.to_owned(), asked)]));
        assert!(refused(&object, "clean").contains("runs already (q)"));
        object.spec.errors.dead_letter = None;
        assert!(refused(&object, "clean").contains("no spec.errors.deadLetter"));
        let late = Options {
            since: Some("1h".to_owned()),
            until: Some("2h".to_owned()),
            ..options("clean", false)
        };
        let why = request(&pipeline(&json!({})), &late, now()).unwrap_err();
        assert!(why.contains("until: not later than since"), "{why}");
    }

    #[test]
    fn a_request_that_was_refused_or_carried_out_makes_room() {
        let over = json!({"replay": {"id": "q", "block": "in", "state": "Done",
            "finishedAt": "2026-02-01T00:00:00Z"}});
        let mut object = pipeline(&over);
        for asked in [r#"{"id": "q", "block": "in"}"#, "nonsense"] {
            let asked = BTreeMap::from([(labels::REPLAY.to_owned(), asked.to_owned())]);
            object.metadata.annotations = Some(asked);
            assert_eq!(is_free(&object), Ok(()));
        }
    }

    #[test]
    fn times_are_taken_as_people_write_them() {
        let at = |text| time(text, now()).map(|time| time.0.to_string());
        assert_eq!(at("1970").unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(at("2026-01-31").unwrap(), "2026-01-31T00:00:00Z");
        assert_eq!(
            at("2026-01-31T10:00:00+02:00").unwrap(),
            "2026-01-31T08:00:00Z"
        );
        assert_eq!(at("2h").unwrap(), "2026-03-01T10:00:00Z");
        for wrong in ["yesterday", "", "31.01.2026", "2026-13-01", "197"] {
            assert!(at(wrong).unwrap_err().contains("a time is"), "{wrong}");
        }
        assert!(Request::read(&json!({"id": id(now()), "block": "b"}).to_string()).is_ok());
    }

    #[test]
    fn what_is_removed_is_said_after_the_end() {
        let ends = ReplayStatus {
            state: ReplayState::Done,
            ..ReplayStatus::default()
        };
        assert!(progress(&ends).contains("are being removed"));
    }

    #[test]
    fn the_counts_are_one_sentence() {
        let status = ReplayStatus {
            id: "r".to_owned(),
            block: "clean".to_owned(),
            state: ReplayState::Done,
            read: 12,
            matched: 10,
            replayed: 7,
            failed: 2,
            given_up: 1,
            ..ReplayStatus::default()
        };
        assert_eq!(
            sentence(&status),
            "replay r of block clean: of 12 dead letters read, 10 were asked for: 7 went through, \
             2 failed again and are dead letters anew, 1 stay because they were replayed 3 times or \
             are not whole"
        );
        let refused = ReplayStatus {
            state: ReplayState::Refused,
            message: "there is no block\u{1b}".to_owned(),
            ..status
        };
        assert_eq!(
            sentence(&refused),
            "the replay is refused: there is no block\u{fffd}"
        );
    }
}
