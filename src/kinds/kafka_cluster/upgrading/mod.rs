//! Decides when the feature levels of a version are raised, which is the last step of an upgrade.
//! Pure.

use crate::api::kafka_cluster::FeatureUpgrade;
use crate::kinds::kafka_cluster::disruption::{Facts, Needs, Priority, Report, Wish};
use crate::kinds::kafka_cluster::observed::KafkaFacts;
use crate::kinds::kafka_cluster::step::Step;
use freehold_kafka::config;
use k8s_openapi::jiff::SignedDuration;
use std::collections::BTreeMap;

/// Reports the wish to raise feature levels, after all nodes have run the version for the soak
/// time.
pub fn report(facts: &Facts<'_>) -> Report {
    let Facts {
        object,
        cluster,
        observed,
        ..
    } = *facts;
    let mut report = Report::default();
    let (KafkaFacts::Answered { features, .. }, Some(definitions)) =
        (&observed.kafka, config::definitions(&cluster.spec.version))
    else {
        return report;
    };
    let status = object.status.as_ref();
    let runs =
        status.is_some_and(|status| status.kafka_version.as_ref() == Some(&cluster.spec.version));
    let behind =
        |(name, level): &(&String, &i16)| features.get(*name).copied().unwrap_or(0) < **level;
    let levels: BTreeMap<String, i16> = definitions
        .features
        .iter()
        .filter(behind)
        .map(|(name, level)| (name.clone(), *level))
        .collect();
    // Without metadata.version the present levels are not known yet.
    if levels.is_empty() || !features.contains_key(config::METADATA_VERSION) {
        return report;
    }
    let upgrade = &cluster.spec.upgrade;
    if upgrade.features == FeatureUpgrade::Hold {
        let warning = "features of this version are held back (spec.upgrade.features is Hold): the older version can still be set";
        report.warnings.push(warning.into());
        return report;
    }
    let since = status.and_then(|status| status.version_since.clone());
    let soaked = since.as_ref().is_some_and(|since| {
        observed.now >= since.0 + SignedDuration::from_mins(upgrade.soak_minutes.into())
    });
    if runs && soaked {
        let upkeep = vec![Step::UpgradeFeatures(levels)];
        let raise = Report {
            upkeep,
            ..Report::default()
        };
        let needs = Needs {
            calm: true,
            idle: true,
            ..Needs::default()
        };
        report
            .wishes
            .push(Wish::now(Priority::Upgrade, raise, needs));
    } else if let (true, false, Some(since)) = (runs, soaked, since) {
        let ends = since.0 + SignedDuration::from_mins(upgrade.soak_minutes.into());
        report.warnings.push(format!("features of this version come into force at {ends}; until then the older version can be set"));
    }
    report
}
