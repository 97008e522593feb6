//! Members of consumer groups that Kafka has to be told of: replicas that are gone, and those that have
//! to join anew because their topics have other partitions.

use crate::api::pipeline::Pipeline;
use crate::clusters::Cluster;
use crate::kinds::pipeline::status::{Runs, members_gone, members_known};
use crate::kinds::pipeline::{apply, desired};
use crate::words::{PART_CHARS_MAX, cut};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long Kafka may take for all stages of a Pipeline together: its status is written after that.
const LIMIT: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Stages whose members join anew.
    pub joined: BTreeSet<String>,
    /// What Kafka has not done, for the status. It is tried again.
    pub waits: Vec<String>,
}

/// Removes the members of replicas that are gone from their groups, and fences their transactional
/// ids: `runs` says then of which stages it is done. And lets the members of the stages `changed` join
/// anew.
pub async fn settle(
    cluster: &Cluster,
    object: &Pipeline,
    changed: &BTreeSet<String>,
    runs: &mut Runs,
) -> Settled {
    let leave = members_gone(object, runs).into_iter().map(|(stage, gone)| {
        let group = desired::group(object, &stage);
        let work = async move {
            apply::end_members(cluster, &group, gone.clone()).await?;
            apply::fence(cluster, object, &group, gone).await
        };
        (stage, work)
    });
    let join = changed.iter().map(|stage| {
        let group = desired::group(object, stage);
        let members = 0..members_known(object, stage);
        let work = async move { apply::end_members(cluster, &group, members).await };
        (stage.clone(), work)
    });
    let (leave, join) = (leave.collect(), join.collect());
    let deadline = Instant::now() + LIMIT;
    let still = "replicas that are gone are still members of its consumer group";
    let lack = "its members do not get the partitions that were added";
    let ((left, not_left), (joined, not_joined)) =
        tokio::join!(each(leave, deadline, still), each(join, deadline, lack));
    runs.left = left;
    Settled {
        joined,
        waits: [not_left, not_joined].concat(),
    }
}

/// Does something for each of these stages at once. Returns those of which it is done, and of the
/// others `what` is not and why.
async fn each<F, E>(
    work: Vec<(String, F)>,
    deadline: Instant,
    what: &str,
) -> (BTreeSet<String>, Vec<String>)
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let (stages, work): (Vec<String>, Vec<F>) = work.into_iter().unzip();
    let answers = join_all(work.into_iter().map(|one| timeout_at(deadline, one))).await;
    let (mut done, mut waits) = (BTreeSet::new(), Vec::new());
    for (stage, answer) in stages.into_iter().zip(answers) {
        let why = match answer {
            Ok(Ok(())) => {
                done.insert(stage);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the coordinator of the group does not answer".to_owned(),
        };
        tracing::warn!(stage, why, "{what}");
        waits.push(cut(format!("stage {stage}: {what}: {why}"), PART_CHARS_MAX));
    }
    (done, waits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use futures::future::{pending, ready};

    #[tokio::test]
    async fn coordinators_that_are_away_have_one_limit_together_and_are_told() {
        let work = ["a", "b", "c", "d"].map(|name| {
            let answer = match name {
                "b" => ready(Ok(())).boxed(),
                "c" => ready(Err("not allowed")).boxed(),
                _ => pending::<Result<(), &str>>().boxed(),
            };
            (name.to_owned(), answer)
        });
        let (began, limit) = (Instant::now(), Duration::from_millis(200));
        let (done, waits) = each(work.into(), began + limit, "it waits").await;
        assert!(began.elapsed() < limit * 2, "{:?}", began.elapsed());
        assert_eq!(done, BTreeSet::from(["b".to_owned()]));
        assert_eq!(
            waits,
            [
                "stage a: it waits: the coordinator of the group does not answer",
                "stage c: it waits: not allowed",
                "stage d: it waits: the coordinator of the group does not answer",
            ]
        );
    }
}
