//! The installed charts and manifests are checked against the API server's schemas, and pods
//! against Pod Security.

use crate::world::{LONG, asked, kubectl};
use freehold_e2e::promise;
use freehold_e2e::shell::{self, command};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn beside_kubectl(program: &str) -> String {
    Path::new(&std::env::var("FREEHOLD_KUBECTL").unwrap())
        .with_file_name(program)
        .to_string_lossy()
        .into_owned()
}

/// JSON schemas of every kind that this API server knows, in the form that kubeconform reads.
fn schemas(folder: &Path) {
    let swagger: Value =
        serde_json::from_str(&kubectl().run(&["get", "--raw", "/openapi/v2"]).unwrap()).unwrap();
    let definitions = swagger["definitions"].as_object().unwrap();
    for (name, definition) in definitions {
        let Some([kind]) = definition["x-kubernetes-group-version-kind"]
            .as_array()
            .map(Vec::as_slice)
        else {
            continue;
        };
        let text = |field: &str| kind[field].as_str().unwrap_or_default().to_lowercase();
        // kubeconform uses only the first part of a group's name.
        let group = text("group")
            .split('.')
            .next()
            .unwrap_or_default()
            .to_owned();
        let file = if group.is_empty() {
            format!("{}-{}.json", text("kind"), text("version"))
        } else {
            format!("{}-{}-{}.json", text("kind"), group, text("version"))
        };
        let mut needed = Map::new();
        collect(definitions, name, &mut needed);
        std::fs::write(
            folder.join(file),
            json!({"$ref": format!("#/definitions/{name}"), "definitions": needed}).to_string(),
        )
        .unwrap();
    }
}

/// A definition with all definitions that it refers to. kube's int-or-string and quantities may be
/// numbers.
fn collect(all: &Map<String, Value>, name: &str, needed: &mut Map<String, Value>) {
    if needed.contains_key(name) {
        return;
    }
    let mut definition = all[name].clone();
    if name.ends_with("IntOrString") || name.ends_with("Quantity") {
        definition = json!({"type": ["string", "number"]});
    } else if definition["properties"].is_object()
        && definition.get("additionalProperties").is_none()
    {
        // Unknown fields are errors.
        definition["additionalProperties"] = json!(false);
    }
    needed.insert(name.to_owned(), definition.clone());
    let text = definition.to_string();
    for reference in text.split("#/definitions/").skip(1) {
        let inner: String = reference
            .chars()
            .take_while(|character| *character != '"')
            .collect();
        collect(all, &inner, needed);
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn charts_and_manifests_are_valid_by_helm_and_by_the_api_server_s_schemas() {
    let repo = repo();
    let folder = std::env::temp_dir().join(format!("freehold-schemas-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    schemas(&folder);
    for chart in ["freehold", "freehold-crds"] {
        shell::run(
            command(
                &beside_kubectl("helm"),
                ["lint", "--strict", "--kube-version", "1.34.0"],
            )
            .arg(repo.join("charts").join(chart)),
        )
        .unwrap();
    }
    let bad = ["lint", "--set", "replicas=0", "--kube-version", "1.34.0"];
    assert!(
        !shell::succeeds(command(&beside_kubectl("helm"), bad).arg(repo.join("charts/freehold"))),
        "values.schema.json refuses replicas=0"
    );
    let location = format!(
        "{}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json",
        folder.display()
    );
    let files = [
        "deploy/manifests/operator.yaml",
        "deploy/manifests/crds.yaml",
        "deploy/examples/quickstart.yaml",
        "deploy/argocd/health-checks.yaml",
    ];
    let mut check = command(
        &beside_kubectl("kubeconform"),
        ["-summary", "-schema-location", &location],
    );
    check.args(files.iter().map(|file| repo.join(file)));
    let said = shell::output(&mut check).unwrap();
    assert!(said.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{said}");
    for example in std::fs::read_dir(repo.join("charts/freehold/ci")).unwrap() {
        let example = example.unwrap().path();
        let words = [
            "template",
            "freehold",
            "--namespace",
            "freehold-system",
            "--kube-version",
            "1.34.0",
            "--values",
        ];
        let rendered = shell::output(
            command(&beside_kubectl("helm"), words)
                .arg(&example)
                .arg(repo.join("charts/freehold")),
        )
        .unwrap();
        let file = folder.join("rendered.yaml");
        std::fs::write(&file, &rendered).unwrap();
        let mut check = command(
            &beside_kubectl("kubeconform"),
            ["-summary", "-schema-location", &location],
        );
        let said = shell::output(check.arg(&file)).unwrap();
        assert!(
            said.contains("Invalid: 0, Errors: 0, Skipped: 0"),
            "{}: {said}",
            example.display()
        );
        match example.file_name().unwrap().to_str().unwrap() {
            "all-namespaces-values.yaml" => {
                assert!(
                    rendered.contains("name: freehold-freehold-system-all"),
                    "a ClusterRole in the place of Roles"
                );
                assert!(
                    rendered.contains("FREEHOLD_ALL_NAMESPACES")
                        && !rendered.contains("namespaceSelector"),
                    "{rendered}"
                );
            }
            "openshift-values.yaml" => assert!(
                !rendered.contains("runAsUser") && !rendered.contains("runAsGroup"),
                "{rendered}"
            ),
            "everything-values.yaml" => {
                assert!(rendered.contains("value: registry,mirror"), "{rendered}");
                let runner = "value: \"registry.example.com/runner:0.1.0\"";
                assert!(rendered.contains(runner), "{rendered}");
            }
            _ => {}
        }
    }
    let both = [
        "template",
        "freehold",
        "--kube-version",
        "1.34.0",
        "--set",
        "watchAllNamespaces=true",
        "--set",
        "watchNamespaces={kafka}",
    ];
    let refused =
        shell::output(command(&beside_kubectl("helm"), both).arg(repo.join("charts/freehold")))
            .unwrap_err()
            .to_string();
    assert!(
        refused.contains("watchAllNamespaces is true and watchNamespaces names some"),
        "{refused}"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn helm_test_says_whether_the_installation_works() {
    let kubectl = kubectl();
    let test = ["test", "freehold", "--namespace", "freehold-system"];
    let said = shell::output(&mut command(&beside_kubectl("helm"), test)).unwrap();
    assert!(said.contains("Phase:          Succeeded"), "{said}");
    // A pod that another test has killed may be on its way.
    shell::wait_for(
        "leader and standby to be scraped each by itself",
        LONG,
        || {
            let metrics = kubectl.json(&[
                "get",
                "endpointslices",
                "--namespace",
                "freehold-system",
                "--selector",
                "kubernetes.io/service-name=freehold-metrics",
            ])?;
            let endpoints = metrics["items"][0]["endpoints"].as_array();
            Ok((endpoints.map_or(0, Vec::len) != 2).then(|| metrics.to_string()))
        },
    )
    .unwrap();
}

/// The answer of `kubectl auth can-i`. It fails too when it says no, so that a failure without an
/// answer must not be taken for one.
fn can_i(words: &[&str]) -> bool {
    asked("whether something is allowed", || {
        let said = kubectl().run(&[&["auth", "can-i"], words].concat());
        let said = said.or_else(|error| {
            let text = error.to_string();
            let is_no = text
                .lines()
                .any(|line| line == "no" || line.starts_with("no - "));
            if is_no {
                Ok("no".to_owned())
            } else {
                Err(error)
            }
        })?;
        Ok(said == "yes")
    })
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn the_operator_may_do_what_it_needs_and_nothing_beyond() {
    let kubectl = kubectl();
    let may = |words: &[&str]| {
        let account = "system:serviceaccount:freehold-system:freehold";
        can_i(&[&["--as", account], words].concat())
    };
    assert!(may(&["get", "secrets", "--namespace", "kafka"]));
    assert!(may(&["delete", "pods", "--namespace", "kafka"]));
    for beyond in [
        &["get", "secrets", "--namespace", "default"][..],
        &["get", "secrets", "--namespace", "kube-system"],
        &["create", "roles", "--namespace", "kafka"],
        &["delete", "pods", "--namespace", "default"],
        // What it does not use it may not do.
        &["create", "pods", "--namespace", "kafka"],
        &["create", "pods/exec", "--namespace", "kafka"],
        &["list", "nodes"],
    ] {
        promise!(!may(beyond), "the operator may {beyond:?}");
    }

    // A user with the role `edit` in a namespace may manage Topics and Users there, and nothing
    // that belongs to the owner of the cluster or to the operator.
    let subject =
        json!({"kind": "User", "name": "person", "apiGroup": "rbac.authorization.k8s.io"});
    let role =
        json!({"kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io"});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "roleRef": role, "subjects": [subject],
        "metadata": {"name": "person", "namespace": "shop"}});
    kubectl.apply(&binding.to_string()).unwrap();
    let person = |words: &[&str]| {
        let person = ["--as", "person", "--namespace", "shop"];
        can_i(&[&person, words].concat())
    };
    shell::wait_for("the API server to know of it", LONG, || {
        Ok((!person(&["create", "topics.freehold.dev"])).then(String::new))
    })
    .unwrap();
    assert!(person(&["delete", "users.freehold.dev"]));
    for beyond in [
        ["patch", "topics.freehold.dev", "--subresource=status"].as_slice(),
        &[
            "create",
            "kafkaclusters.freehold.dev",
            "--namespace",
            "kafka",
        ],
    ] {
        promise!(
            !person(beyond),
            "somebody with the role edit may {beyond:?}"
        );
    }
    kubectl
        .delete("rolebinding", "shop", "person", LONG)
        .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn no_secret_is_in_a_log_an_event_a_status_or_an_argument_list() {
    let kubectl = kubectl();
    let password =
        crate::world::secret(&kubectl, "shop", "shop-app-kafka").unwrap()["password"].clone();
    let read = |words: &[&str]| asked("what is shown", || kubectl.run(words));
    let logs = read(&[
        "logs",
        "--namespace",
        "freehold-system",
        "--selector",
        "app.kubernetes.io/name=freehold",
        "--tail=-1",
    ]);
    assert!(
        logs.contains("leading") || logs.contains("waiting for the lease"),
        "these are the operators' logs"
    );
    for (what, text) in [
        ("logs", logs),
        (
            "events",
            read(&["get", "events", "--all-namespaces", "-o", "yaml"]),
        ),
        (
            "resources",
            read(&[
                "get",
                "kafkaclusters,topics,users,pods,configmaps",
                "--all-namespaces",
                "-o",
                "yaml",
            ]),
        ),
    ] {
        promise!(!text.contains(&password), "the password is in the {what}");
        promise!(
            !text.contains("PRIVATE KEY"),
            "a private key is in the {what}"
        );
    }
}
