//! The registration of User in the registry of kinds.

use crate::api::user::User;
use crate::kinds::context::Context as Shared;
use crate::kinds::registration::{Editors, Registered, Review, Served};
use crate::kinds::rights::Right;
use crate::kinds::user::context::Context;
use crate::kinds::user::{UserKind, validate};
use std::sync::Arc;

impl Registered for UserKind {
    const SERVED: Served = Served::Watched;
    const EDITORS: Editors = Editors::Edit;
    const OWNS_OBJECTS: bool = true;
    const RIGHTS: &'static [Right] = &[Right {
        group: "",
        resources: &["secrets"],
        names: &[],
        verbs: &["get", "list", "watch", "create", "update", "delete"],
        why: "A User's Secret is replaced whole, so that no old key is left in it; it is watched, \
              and deleted under its former name. A Secret that gives a password is read.",
        used_by: &[
            "kinds/user/apply.rs",
            "kinds/user/secrets.rs",
            "kinds/user/observe.rs",
        ],
    }];

    fn context(shared: &Arc<Shared>) -> Arc<Context> {
        Arc::new(Context::of(Arc::clone(shared)))
    }
    fn review(object: User) -> Review {
        let reference = object.spec.cluster_ref.clone();
        let check = move |facts: &_, at_home| {
            (
                validate::check(&object, facts, at_home),
                validate::warnings(&object),
            )
        };
        Review::OfCluster(reference, Box::new(check))
    }
}
