//! Checks the compute resources of a pod. Pure.

use crate::kubernetes::quantity;
use k8s_openapi::api::core::v1::ResourceRequirements;
use std::collections::BTreeMap;

/// Refuses invalid quantities, and requests above their limits: the API server would refuse the
/// pods. `field`: where the resources are in the spec; `invalid` gets a field and what is wrong.
pub fn check(resources: &ResourceRequirements, field: &str, mut invalid: impl FnMut(&str, String)) {
    let none = BTreeMap::new();
    let (limits, requests) = (
        resources.limits.as_ref().unwrap_or(&none),
        resources.requests.as_ref().unwrap_or(&none),
    );
    for (of, amounts) in [("limits", limits), ("requests", requests)] {
        for (key, amount) in amounts {
            let field = format!("{field}.{of}.{key}");
            match quantity::number(&amount.0) {
                None => invalid(
                    &field,
                    format!("{:?} is not a quantity such as 2Gi or 500m", amount.0),
                ),
                Some(number) if number < 0.0 => {
                    invalid(&field, "below zero; give what a pod needs".into())
                }
                Some(number) => {
                    let limit = limits
                        .get(key)
                        .filter(|_| of == "requests")
                        .and_then(|limit| quantity::number(&limit.0));
                    if limit.is_some_and(|limit| number > limit) {
                        invalid(
                            &field,
                            format!(
                                "{} is above resources.limits.{key}, {}; lower it or raise the limit",
                                amount.0, limits[key].0
                            ),
                        );
                    }
                }
            }
        }
    }
}
