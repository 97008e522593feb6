//! An operator that is built without fault injection refuses to start where faults are asked for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

/// What an operator says that finds no Kubernetes.
fn said(fault: Option<(&str, &str)>) -> String {
    let mut operator = Command::new(env!("CARGO_BIN_EXE_freehold"));
    operator
        .args([
            "operator",
            "--watch-namespaces",
            "n",
            "--log-format",
            "human",
        ])
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("KUBECONFIG", "/nonexistent")
        .env("HOME", "/nonexistent")
        .envs(fault);
    let output = operator.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_operator_without_fault_injection_does_not_start_with_its_variables() {
    let injects = cfg!(feature = "fault-injection");
    for name in [
        "FREEHOLD_FAULT_EXIT_AFTER_WRITES",
        "FREEHOLD_FAULT_DEAF_SECONDS",
    ] {
        let text = said(Some((name, "1")));
        let refused = format!("{name} is set, and this operator is built without fault injection");
        assert_eq!(text.contains(&refused), !injects, "{text}");
        assert_eq!(text.contains("fails on purpose"), injects, "{text}");
    }
    let text = said(None);
    assert!(
        !text.contains("fault") && !text.contains("on purpose"),
        "{text}"
    );
}
