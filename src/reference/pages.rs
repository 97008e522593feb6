//! Pages of `docs/reference/` that are tables: conditions and reasons, rights, metrics, and the
//! list of pages. Pure.

use crate::api::conditions::Reason;
use crate::clusters::inventory;
use crate::kinds::pipeline;
use crate::kinds::registration::Entry;
use crate::reference::roles::{self, Rule};
use crate::runtime::metrics::{self, Metric};

/// What a cell of a table may hold: one line, and no bar.
pub fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|")
}

/// The catalogue of conditions and reasons.
pub fn conditions() -> String {
    let mut text = String::from(
        "# Conditions and reasons\n\n\
         Every object has the condition `Ready`, and `Reconciling` or `Stalled` while that holds, \
         in the sense\n\
         of kstatus. A reason is at once the condition's reason, the event's reason and the \
         metric's label.\n\
         Made from `src/api/conditions.rs` by `cargo xtask generate`.\n\n\
         | reason | meaning |\n| --- | --- |\n",
    );
    for (reason, meaning) in Reason::ALL {
        text += &format!("| `{reason}` | {} |\n", cell(meaning));
    }
    text
}

/// Every right of the operator and of people, why it is there, and what uses it.
pub fn rights(kinds: &[&Entry]) -> String {
    let mut text = String::from(
        "# Rights\n\n\
         What the charts grant, why, and which code uses it. The charts' rules and this page are \
         made from one\n\
         table (`src/reference/roles.rs` and the registry of kinds) by `cargo xtask generate`. \
         `freehold`\n\
         stands for the release's name, `NAMESPACE` for its namespace.\n\n\
         Nobody but the operator needs `patch` or `update` on `topics/status`, `users/status` and\n\
         `kafkaclusters/status`: do not give it to tenants. Kafka itself records who owns what in \
         it, where\n\
         no manifest and no status can forge it; a status counts only where that record is \
         missing.\n",
    );
    for role in roles::of_operator(kinds) {
        text += &format!("\n## {}\n\n{}\n\n", role.title, role.about);
        text += "| group | resources | verbs | why | used by |\n| --- | --- | --- | --- | --- |\n";
        for rule in &role.rules {
            let used_by: Vec<String> = rule
                .used_by
                .iter()
                .map(|code| format!("`{code}`"))
                .collect();
            text += &format!("{} {} |\n", row(rule), used_by.join(", "));
        }
    }
    text += "\n## Roles for people\n\n\
             The chart `freehold-crds` has ClusterRoles that Kubernetes adds to its own roles. \
             They give no right\n\
             on Secrets beyond what those roles have.\n";
    for role in roles::for_people(kinds) {
        text += &format!("\n### {}\n\n{}\n\n", role.title, role.about);
        text += "| group | resources | verbs | why |\n| --- | --- | --- | --- |\n";
        for rule in &role.rules {
            text += &format!("{}\n", row(rule));
        }
    }
    text
}

fn row(rule: &Rule) -> String {
    let group = if rule.group.is_empty() {
        "core"
    } else {
        &rule.group
    };
    let mut resources = rule.resources.join(", ");
    if !rule.names.is_empty() {
        resources += &format!(" ({})", rule.names.join(", "));
    }
    format!(
        "| {group} | {resources} | {} | {} |",
        rule.verbs.join(", "),
        cell(&rule.why)
    )
}

/// Every metric of the operator.
pub fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         The operator serves them in Prometheus' text format at `/metrics`, port 8080. Kafka's own \
         metrics are\n\
         not among them, and those of runners are at their own `/metrics`. Made from tables in the \
         code by\n\
         `cargo xtask generate`.\n\n\
         | name | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for metric in all_metrics() {
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        text += &format!(
            "| `{}` | {} | {} | {}. |\n",
            metric.series(),
            metric.kind.name(),
            labels.join(", "),
            cell(metric.meaning)
        );
    }
    text += "\n`kind` is the object's kind, `reason` one of the \
             [reasons](conditions.md), `cluster` the namespace\n\
             and name of a KafkaCluster, and `managed_by` is `freehold`, `nobody` or `kafka`. \
             `pipeline` is the\n\
             namespace and name of a Pipeline, and `what` is `in`, `out` or `error`.\n\n\
             A histogram has the series `_bucket`, `_sum` and `_count`. Only the replica that holds \
             the Lease\n\
             reconciles; the other one serves `freehold_leader 0`.\n";
    text
}

/// The metrics of every module that has some.
pub fn all_metrics() -> impl Iterator<Item = &'static Metric> {
    let all = metrics::ALL.into_iter().chain(inventory::ALL);
    all.chain(pipeline::metrics::ALL)
}

/// The list of the pages.
pub fn index(kinds: &[&Entry]) -> String {
    let mut text = String::from(
        "# Reference\n\n\
         Generated from the code by `cargo xtask generate`.\n\n\
         | page | what |\n| --- | --- |\n",
    );
    for entry in kinds {
        let kind = entry.resource().kind;
        text += &format!("| [{kind}]({}) | its fields |\n", page_name(&kind));
    }
    text + "| [Conditions and reasons](conditions.md) | what a condition or an event says |\n\
            | [Metrics](metrics.md) | of the operator |\n\
            | [Rights](rights.md) | of the operator and of people: each right, and why |\n\
            | [JVM options](jvm-options.md) | what `jvm.options` may hold |\n"
}

/// The file name of the page of a kind.
pub fn page_name(kind: &str) -> String {
    format!("{}.md", kind.to_lowercase())
}
