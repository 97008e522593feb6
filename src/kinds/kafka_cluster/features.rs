//! The last step of an upgrade: the version's features. Pure.

use super::api::{FeatureUpgrade, KafkaCluster};
use super::observe::{KafkaFacts, Observed};
use super::plan::{Plan, Step};
use super::validate::ValidCluster;
use crate::kafka::config;
use k8s_openapi::jiff::SignedDuration;
use std::collections::BTreeMap;

/// Features are raised once every node has run the version for long enough.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let (KafkaFacts::Answered { features, .. }, Some(definitions)) = (&observed.kafka, config::definitions(&cluster.spec.version)) else {
        return;
    };
    let status = object.status.as_ref();
    let runs = status.is_some_and(|status| status.kafka_version.as_ref() == Some(&cluster.spec.version));
    let behind = |(name, level): &(&String, &i16)| features.get(*name).copied().unwrap_or(0) < **level;
    let levels: BTreeMap<String, i16> = definitions.features.iter().filter(behind).map(|(name, level)| (name.clone(), *level)).collect();
    // Nothing is known of them before the metadata is.
    if levels.is_empty() || !features.contains_key(config::METADATA_VERSION) {
        return;
    }
    let upgrade = &cluster.spec.upgrade;
    if upgrade.features == FeatureUpgrade::Hold {
        let warning = "features of this version are held back (spec.upgrade.features is Hold): the older version can still be set";
        plan.warnings.push(warning.into());
        return;
    }
    let since = status.and_then(|status| status.version_since.clone());
    let soaked = since.is_some_and(|since| observed.now >= since.0 + SignedDuration::from_mins(upgrade.soak_minutes.into()));
    if runs && soaked && plan.waiting_on.is_empty() && plan.lease.is_none() && plan.steps.is_empty() {
        plan.steps.push(Step::UpgradeFeatures(levels));
    } else if runs && !soaked {
        let ends = status
            .and_then(|status| status.version_since.as_ref())
            .map(|since| since.0 + SignedDuration::from_mins(upgrade.soak_minutes.into()));
        let ends = ends.map(|ends| ends.to_string()).unwrap_or_default();
        plan.warnings.push(format!("features of this version come into force at {ends}; until then the older version can be set"));
    }
}
