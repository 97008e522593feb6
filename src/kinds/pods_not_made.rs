//! Reads why a StatefulSet makes no pods. Only its events say so: a quota or a policy refuses them.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams};
use std::time::Duration;

/// While a pod is missing, the events of its StatefulSet are read at most once in this time.
pub const KEEP: Duration = Duration::from_secs(5);
/// The number of events that are read for one StatefulSet.
const EVENTS_MAX: u32 = 100;
/// The maximum length of a quoted message, in characters.
const WORDS_CHARS_MAX: usize = 400;

/// Why the StatefulSet with this name and uid makes no pods; `None` if its latest event reports no
/// failure.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn why(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> kube::Result<Option<String>> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let selector = format!(
        "involvedObject.kind=StatefulSet,involvedObject.name={name},involvedObject.uid={uid}"
    );
    let events = api
        .list(&ListParams::default().fields(&selector).limit(EVENTS_MAX))
        .await?;
    Ok(not_created(&events.items))
}

/// Why a StatefulSet's pods are not created, from its latest event; `None` if that event reports no
/// failure.
fn not_created(events: &[Event]) -> Option<String> {
    let time = |event: &Event| -> Option<Timestamp> {
        let series = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref())
            .map(|time| time.0);
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let first = event.event_time.as_ref().map(|time| time.0).or(event
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0));
        [series, last, first].into_iter().flatten().max()
    };
    let last = events
        .iter()
        .max_by_key(|event| time(event))
        .filter(|event| event.reason.as_deref() == Some("FailedCreate"))?;
    let message = last.message.as_deref()?;
    let (_, why) = message
        .split_once("failed error: ")
        .unwrap_or(("", message));
    Some(why.chars().take(WORDS_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn why_a_pod_is_not_made_is_what_the_last_event_says() {
        let event = |reason: &str, time: &str, message: &str| -> Event {
            serde_json::from_value(
                json!({"metadata": {}, "involvedObject": {}, "reason": reason, "lastTimestamp": time, "message": message}),
            )
            .unwrap()
        };
        let why = "pods \"a-100\" is forbidden: exceeded quota: small, requested: memory=1Gi, used: memory=2Gi, limited: memory=2Gi";
        let failed = event(
            "FailedCreate",
            "2026-06-01T00:00:05Z",
            &format!("create Pod a-100 in StatefulSet a failed error: {why}"),
        );
        let made = |time| {
            event(
                "SuccessfulCreate",
                time,
                "create Pod a-100 in StatefulSet a successful",
            )
        };
        assert_eq!(
            not_created(&[made("2026-06-01T00:00:00Z"), failed.clone()]).as_deref(),
            Some(why)
        );
        assert_eq!(
            not_created(&[failed.clone(), made("2026-06-01T00:00:09Z")]),
            None,
            "it was made since"
        );
        assert_eq!(not_created(&[]), None);
        let mut long = failed;
        long.message = Some("x".repeat(100_000));
        assert_eq!(not_created(&[long]).unwrap().len(), WORDS_CHARS_MAX);
    }
}
