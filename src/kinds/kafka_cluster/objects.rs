//! Decides which of a cluster's objects are applied, repaired or deleted. Pure.

use crate::kinds::kafka_cluster::disruption::{Report, WaitingOn};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::step::Step;
use crate::kinds::kafka_cluster::storage;
use crate::kubernetes::{Live, Object, difference};
use std::collections::BTreeSet;

/// Plans the objects to apply and to delete.
pub fn report(cluster: &ValidCluster, desired: &[Object], observed: &Observed) -> Report {
    let mut report = Report::default();
    for object in desired {
        let Some(live) = observed.objects.find(object.kind(), object.name()) else {
            report.upkeep.push(Step::Apply(Box::new(object.clone())));
            continue;
        };
        if live.is_deleting() {
            report.waiting.push(removal(object));
            continue;
        }
        // A leaving node is known only from its StatefulSet, so the StatefulSet is not replaced
        // before the node is gone.
        let set = observed.objects.stateful_set(object.name());
        let anew = object.kind() == "StatefulSet"
            && set.is_some_and(|set| storage::needs_new_template(object, set));
        if anew {
            let leaving = cluster.groups.iter().any(|group| {
                group.stateful_set == live.name() && group.leaving_ids().next().is_some()
            });
            if !leaving {
                report.upkeep.push(Step::Release(Box::new(live.clone())));
                report.waiting.push(removal(object));
            }
            continue;
        }
        compare(cluster, object, live, observed, &mut report);
    }
    let wanted: BTreeSet<_> = desired
        .iter()
        .map(|object| (object.kind().to_owned(), object.name().to_owned()))
        .collect();
    for live in observed
        .objects
        .all()
        .iter()
        .filter(|live| live.is_owned_by(&cluster.owner.uid) && !live.is_deleting())
    {
        // A StatefulSet is deleted only when it has no pods, because pods hold partitions. The
        // spec's validation allows the removal of a pool only at 0 replicas.
        let set = observed.objects.stateful_set(live.name());
        let pods = live.resource.kind == "StatefulSet" && set.is_some_and(|set| !set.is_empty());
        let is_kept = live.resource.kind == "ConfigMap"
            && cluster
                .groups
                .iter()
                .any(|group| group.retained.is_some() && group.stateful_set == live.name());
        if !pods
            && !is_kept
            && !wanted.contains(&(live.resource.kind.clone(), live.name().to_owned()))
        {
            report.upkeep.push(Step::Prune(Box::new(live.clone())));
        }
    }
    report
}

fn removal(object: &Object) -> WaitingOn {
    WaitingOn::Removal {
        kind: object.kind().to_owned(),
        name: object.name().to_owned(),
    }
}

/// Plans the steps for an object that exists: fields that differ are applied, and fields that
/// somebody else added are removed. A repair that had no effect a short time ago counts as applied,
/// because pods are made from the object as it is.
fn compare(
    cluster: &ValidCluster,
    object: &Object,
    live: &Live,
    observed: &Observed,
    report: &mut Report,
) {
    let foreign = difference::foreign(object, live);
    let changed = difference::changed(object, live);
    let applied = live.is_owned_by(&cluster.owner.uid) && difference::is_applied(object, live);
    let mut steps = Vec::new();
    if !foreign.is_empty() {
        steps.push(Step::RemoveFields {
            object: Box::new(object.clone()),
            live: Box::new(live.clone()),
            fields: foreign,
        });
    }
    if applied && !changed.is_empty() {
        steps.push(Step::PutRight {
            object: Box::new(object.clone()),
            fields: changed,
        });
    } else if !applied {
        steps.push(Step::Apply(Box::new(object.clone())));
    }
    for step in steps {
        match observed
            .attempts
            .refusal(&step.what(), &step.wanted(), observed.now)
        {
            Some(refusal) if !matches!(step, Step::Apply(_)) => report.refused.push(refusal),
            _ => report.upkeep.push(step),
        }
    }
}
