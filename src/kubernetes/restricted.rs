//! The parts of a pod that are the same for all that Freehold makes: what Pod Security `restricted`
//! asks of a container, and probes by HTTP. Pure.

use k8s_openapi::api::core::v1::{Capabilities, HTTPGetAction, Probe, SecurityContext};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The user and group id of containers; it is not root. Files of mounted Secrets and volumes belong
/// to the group.
pub const USER_ID: i64 = 10_001;

/// The security context of a container.
pub fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: None,
        }),
        ..Default::default()
    }
}

/// A probe by HTTP: how often it is asked, and how many failures in a row count.
pub fn probe(port: u16, path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(i32::from(port)),
            scheme: Some("HTTP".into()),
            ..Default::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        success_threshold: Some(1),
        timeout_seconds: Some(5),
        ..Default::default()
    }
}
