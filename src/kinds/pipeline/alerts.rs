//! Tells of alerts in Kubernetes: in the status of their block, and by Events. Pure.

use crate::api::conditions::Reason;
use crate::api::pipeline::{BlockAlert, BlockStatus, Pipeline};
use crate::runtime::kind::Notice;
use freehold_pipeline::report::{LastAlert, StageReport, merged};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Least time between two Events of a block: a storm of alerts is no storm of Events.
const INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// The alert that is to be told of now; `None`: there is none that was not, or the last Event was
/// written a short time ago.
fn due(
    known: Option<&BlockAlert>,
    reported: Option<&LastAlert>,
    now: Timestamp,
) -> Option<BlockAlert> {
    let reported = reported?;
    // To the second, as the status keeps it; and not later than now: a runner whose clock is fast
    // would silence the alerts of its future.
    let seconds = reported.time_ms.div_euclid(1_000).min(now.as_second());
    let (time, record) = (
        Timestamp::from_second(seconds).ok()?,
        reported.address.to_string(),
    );
    let is_due = known.is_none_or(|known| {
        let has_waited = now.duration_since(known.time.0) >= INTERVAL;
        known.record != record && time > known.time.0 && has_waited
    });
    is_due.then_some(BlockAlert {
        record,
        time: Time(time),
    })
}

/// The alert that the status of a block names.
pub fn last(
    known: Option<&BlockStatus>,
    reported: Option<&LastAlert>,
    now: &Time,
) -> Option<BlockAlert> {
    let known = known.and_then(|known| known.last_alert.as_ref());
    due(known, reported, now.0).or_else(|| known.cloned())
}

/// The Events that are to be written.
pub fn notices(object: &Pipeline, reports: &[StageReport], now: &Time) -> Vec<Notice> {
    let status = object.status.as_ref();
    let notice = |name: &str, reported: Option<&LastAlert>| {
        let mut blocks = status.iter().flat_map(|status| &status.blocks);
        let known = blocks.find(|known| known.name == name);
        let alert = due(
            known.and_then(|known| known.last_alert.as_ref()),
            reported,
            now.0,
        )?;
        Some(Notice {
            reason: Reason::AlertRaised,
            message: format!(
                "block {name}: an alert for record {} at {}",
                alert.record, alert.time.0
            ),
        })
    };
    let blocks = merged(reports);
    let notices = blocks
        .iter()
        .filter_map(|block| notice(&block.name, block.last_alert.as_ref()));
    notices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_pipeline::report::BlockReport;
    use serde_json::json;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn pipeline(known: Option<(i64, &str)>) -> Pipeline {
        let mut block = json!({"name": "hot"});
        if let Some((second, record)) = known {
            block["lastAlert"] = json!({"time": at(second), "record": record});
        }
        serde_json::from_value(json!({
            "metadata": {"name": "sensors", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": []},
            "status": {"blocks": [block]},
        }))
        .unwrap()
    }

    fn report(time_ms: i64) -> StageReport {
        StageReport {
            blocks: vec![BlockReport {
                name: "hot".to_owned(),
                last_alert: Some(LastAlert {
                    address: "heat/2/17".parse().unwrap(),
                    time_ms,
                }),
                ..BlockReport::default()
            }],
            ..StageReport::default()
        }
    }

    fn told(known: Option<(i64, &str)>, time_ms: i64, now: i64) -> Option<String> {
        let object = pipeline(known);
        let notices = notices(&object, &[report(time_ms)], &at(now));
        assert!(
            notices
                .iter()
                .all(|notice| notice.reason == Reason::AlertRaised)
        );
        let status = object.status.unwrap();
        let reported = report(time_ms).blocks[0].last_alert.clone();
        let kept = last(status.blocks.first(), reported.as_ref(), &at(now)).unwrap();
        // The status names the alert that the Event was written for.
        let is_new = known.is_none_or(|(_, record)| record != kept.record);
        assert_eq!(notices.len(), usize::from(is_new));
        notices.into_iter().next().map(|notice| notice.message)
    }

    #[test]
    fn an_alert_is_told_once_and_the_next_one_after_a_minute() {
        let words = "block hot: an alert for record heat/2/17 at 1970-01-01T00:16:40Z";
        assert_eq!(told(None, 1_000_900, 1_001).as_deref(), Some(words));
        assert_eq!(told(Some((1_000, "heat/2/17")), 1_000_900, 2_000), None);
        // One that came soon after it waits for its minute, and is not forgotten.
        let known = Some((970, "heat/2/11"));
        assert_eq!(told(known, 1_000_900, 1_029), None);
        assert_eq!(told(known, 1_000_900, 1_030).as_deref(), Some(words));
        // The clock of a runner is fast: its alert is told once, and the next one too.
        let fast = "block hot: an alert for record heat/2/17 at 1970-01-01T00:16:41Z";
        assert_eq!(told(None, 9_000_000, 1_001).as_deref(), Some(fast));
        assert_eq!(told(Some((1_001, "heat/2/17")), 9_000_000, 2_000), None);
        assert!(told(Some((1_001, "heat/2/16")), 9_000_000, 1_061).is_some());
        // A replica that started anew has raised none yet.
        assert!(notices(&pipeline(known), &[StageReport::default()], &at(9_000)).is_empty());
    }
}
