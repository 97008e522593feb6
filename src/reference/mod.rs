//! Everything in the repository that is made from the code: rules and roles in the charts, and the
//! pages of `docs/reference/`. `cargo xtask generate` writes the files; `tests/registry.rs`
//! compares them. Pure.

pub mod charts;
pub mod fields;
pub mod pages;
pub mod roles;

use crate::kinds::registration::Entry;
use std::collections::BTreeMap;

/// Every generated file for these kinds: its text by its path in the repository.
pub fn files(kinds: &[&Entry]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = [
        ("charts/freehold/templates/_rules.tpl", charts::rules(kinds)),
        (
            "charts/freehold-crds/templates/cluster-roles.yaml",
            charts::people(kinds),
        ),
        ("docs/reference/README.md", pages::index(kinds)),
        ("docs/reference/conditions.md", pages::conditions()),
        ("docs/reference/metrics.md", pages::metrics()),
        ("docs/reference/rights.md", pages::rights(kinds)),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into();
    for entry in kinds {
        let page = pages::page_name(&entry.resource().kind);
        files.insert(
            format!("docs/reference/{page}"),
            fields::page(&entry.definition()),
        );
    }
    files
}
