//! The registration of Topic in the registry of kinds.

use crate::api::topic::Topic;
use crate::kinds::context::Context;
use crate::kinds::registration::{Editors, Registered, Review, Served};
use crate::kinds::rights::Right;
use crate::kinds::topic::{TopicKind, validate};
use std::sync::Arc;

impl Registered for TopicKind {
    const SERVED: Served = Served::Watched;
    const EDITORS: Editors = Editors::Edit;
    const OWNS_OBJECTS: bool = false;
    const RIGHTS: &'static [Right] = &[];

    fn context(shared: &Arc<Context>) -> Arc<Context> {
        Arc::clone(shared)
    }
    fn review(object: Topic) -> Review {
        let reference = object.spec.cluster_ref.clone();
        let check = move |facts: &_, at_home| {
            (
                validate::check(&object, facts, at_home),
                validate::warnings(&object, facts),
            )
        };
        Review::OfCluster(reference, Box::new(check))
    }
}
