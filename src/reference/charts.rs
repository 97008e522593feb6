//! The templates of the charts that are made from the registry: rules of the operator's Roles and of
//! its webhook, and the ClusterRoles for people. Pure.

use crate::api::GROUP;
use crate::kinds::registration::Entry;
use crate::reference::roles::{self, CLUSTER_WIDE_NAME, Role, Rule};

/// Comments in the templates are at most so wide, without their indentation.
const COMMENT_CHARS_MAX: usize = 94;
/// What the templates call the name of a release's cluster-wide objects.
const CLUSTER_WIDE_TEMPLATE: &str = "{{ include \"freehold.webhook\" . }}";

/// The chart's file of rules; the other templates include them.
pub fn rules(kinds: &[&Entry]) -> String {
    let mut text = String::from(
        "{{- /* Made by `cargo xtask generate` from the registry of kinds and \
         src/reference/roles.rs.\n\
         What the operator uses, and no more. docs/reference/rights.md says which code uses each \
         right. */ -}}\n",
    );
    for role in roles::of_operator(kinds) {
        text += &format!("{{{{- /* {} */ -}}}}\n", role.title);
        text += &format!("{{{{- define \"{}\" -}}}}\n", role.name);
        text += &yaml(&role.rules, "");
        text += "{{- end }}\n";
    }
    text += "{{- /* The objects that the API server sends to the webhook. */ -}}\n";
    text += "{{- define \"freehold.reviewRules\" -}}\n";
    for (version, plurals) in roles::reviewed(kinds) {
        text += &format!(
            "- apiGroups: [{GROUP}]\n  apiVersions: [{version}]\n  resources: [{}]\n  \
             operations: [CREATE, UPDATE]\n  scope: Namespaced\n",
            plurals.join(", ")
        );
    }
    text + "{{- end }}\n"
}

/// The ClusterRoles for people, as a file of the chart of definitions.
pub fn people(kinds: &[&Entry]) -> String {
    let mut text = String::from(
        "# Rights on Freehold's resources for people, by the roles that Kubernetes gives them \
         already.\n\
         # They give no right on Secrets. Made by `cargo xtask generate` from the registry of \
         kinds.\n",
    );
    let all: Vec<String> = roles::for_people(kinds).iter().map(cluster_role).collect();
    text += &all.join("---\n");
    text
}

fn cluster_role(role: &Role) -> String {
    let mut text = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: {}\n  \
         labels:\n",
        role.name
    );
    for other in role.aggregated_to {
        text += &format!("    rbac.authorization.k8s.io/aggregate-to-{other}: \"true\"\n");
    }
    text += "rules:\n";
    text + &yaml(&role.rules, "  ")
}

fn yaml(rules: &[Rule], indentation: &str) -> String {
    let mut text = String::new();
    for rule in rules {
        let group = if rule.group.is_empty() {
            "\"\""
        } else {
            &rule.group
        };
        let mut lines = comment(&rule.why);
        lines.push(format!("- apiGroups: [{group}]"));
        lines.push(format!("  resources: [{}]", rule.resources.join(", ")));
        if !rule.names.is_empty() {
            let names = rule.names.join(", ");
            let names = names.replace(CLUSTER_WIDE_NAME, CLUSTER_WIDE_TEMPLATE);
            lines.push(format!("  resourceNames: [{names}]"));
        }
        lines.push(format!("  verbs: [{}]", rule.verbs.join(", ")));
        for line in lines {
            text += &format!("{indentation}{line}\n");
        }
    }
    text
}

/// A text as lines of a YAML comment.
fn comment(text: &str) -> Vec<String> {
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= COMMENT_CHARS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_a_comment_of_several_lines() {
        let lines = comment(&"word ".repeat(40));
        assert!(lines.len() == 3, "{lines:?}");
        for line in &lines {
            assert!(line.starts_with("# word") && line.len() <= COMMENT_CHARS_MAX);
        }
        assert_eq!(lines.join(" ").matches("word").count(), 40);
    }
}
