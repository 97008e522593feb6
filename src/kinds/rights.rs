//! A right of the operator in Kubernetes, as data. A kind declares those that it needs on other
//! resources than its own in [`Registered::RIGHTS`](crate::kinds::registration::Registered). Pure.

/// A right on resources of one API group, with the reason for it. The charts' rules and the page
/// of rights are made from it, so no right is without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty: the core group.
    pub group: &'static str,
    /// Plural names, with the subresource after a slash.
    pub resources: &'static [&'static str],
    /// Names of single objects; empty: all objects of these resources.
    pub names: &'static [&'static str],
    pub verbs: &'static [&'static str],
    /// Why it is needed: a sentence, which is also the comment in the chart.
    pub why: &'static str,
    /// The code that uses it: files and folders of `src/`, and functions as `module::name`.
    pub used_by: &'static [&'static str],
}

/// The verbs for objects that are made by server-side apply, followed and deleted.
pub const APPLY: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];
