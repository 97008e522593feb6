//! What must be done so that the objects of a Pipeline are as they should be. Pure.

use crate::kubernetes::difference::{self, Foreign};
use crate::kubernetes::{Live, Object};

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Apply(Object),
    /// Fields that somebody else added, which an apply would leave.
    RemoveFields(Live, Vec<Foreign>),
    /// It is left of a stage that is no more.
    Delete(Live),
}

/// The steps to the wanted objects. Of what was found, only objects that the Pipeline with this uid
/// owns are deleted.
pub fn plan(wanted: &[Object], found: &[Live], uid: &str) -> Vec<Step> {
    let is_same = |wanted: &Object, live: &Live| {
        wanted.kind() == live.resource.kind && wanted.name() == live.name()
    };
    let mut steps = Vec::new();
    for one in wanted {
        let live = found.iter().find(|live| is_same(one, live));
        steps.extend(step(one, live));
    }
    let surplus = found.iter().filter(|live| {
        let wanted = wanted.iter().any(|one| is_same(one, live));
        live.is_owned_by(uid) && !live.is_deleting() && !wanted
    });
    steps.extend(surplus.cloned().map(Step::Delete));
    steps
}

/// The step for one object; `None`: it is what was applied last, and nobody has changed it since.
pub fn step(wanted: &Object, live: Option<&Live>) -> Option<Step> {
    let Some(live) = live else {
        return Some(Step::Apply(wanted.clone()));
    };
    if !difference::is_applied(wanted, live) || !difference::changed(wanted, live).is_empty() {
        return Some(Step::Apply(wanted.clone()));
    }
    let foreign = difference::foreign(wanted, live);
    (!foreign.is_empty()).then(|| Step::RemoveFields(live.clone(), foreign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn wanted(name: &str, text: &str) -> Object {
        Object::of_value(
            kubernetes::resource::<ConfigMap>(),
            json!({
                "metadata": {"name": name, "ownerReferences": [{"uid": "u"}]},
                "data": {"stage.json": text},
            }),
        )
    }

    fn live(object: &Object) -> Live {
        Live {
            resource: object.resource.clone(),
            value: object.value.clone(),
        }
    }

    #[test]
    fn what_is_as_wanted_stays_and_what_is_left_of_a_stage_goes() {
        let (kept, changed, old) = (wanted("a", "1"), wanted("b", "2"), wanted("c", "3"));
        let mut foreign = live(&wanted("d", "4"));
        foreign.value["metadata"]["ownerReferences"] = json!([{"uid": "another"}]);
        let found = [live(&kept), live(&wanted("b", "1")), live(&old), foreign];
        let steps = plan(&[kept, changed.clone()], &found, "u");
        assert_eq!(steps, [Step::Apply(changed), Step::Delete(live(&old))]);
    }
}
