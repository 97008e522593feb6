//! Freehold on a cluster: CRDs and operator by their own charts, namespaces, images.

use crate::images::Image;
use crate::layout::Layout;
use anyhow::Result;
use ground::kubectl::Kubectl;
use ground::shell;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

pub const NAMESPACE: &str = "freehold-system";
pub const RELEASE: &str = "freehold";

/// What is installed, and where.
#[derive(Clone, Debug)]
pub struct Installation {
    pub helm: PathBuf,
    /// Helm's arguments that name the cluster.
    pub target: Vec<String>,
    pub kubectl: Kubectl,
    pub operator: String,
    /// Version -> image.
    pub kafka: BTreeMap<String, String>,
    pub watch_namespaces: Vec<String>,
}

impl Installation {
    fn helm(&self, args: &[&str]) -> Command {
        let mut helm = Command::new(&self.helm);
        helm.args(&self.target).args(args).stdin(std::process::Stdio::null());
        helm
    }

    /// The chart's values for this installation.
    fn values(&self) -> String {
        let (repository, tag) = self.operator.rsplit_once(':').unwrap_or((&self.operator, ""));
        json!({
            "image": {"repository": repository, "tag": tag},
            "kafkaImages": self.kafka,
            "watchNamespaces": self.watch_namespaces,
            "log": {"level": "info", "format": "human"},
        })
        .to_string()
    }

    /// Namespaces that Pod Security holds to `restricted`.
    pub fn namespaces(&self) -> Result<()> {
        for name in self.watch_namespaces.iter().map(String::as_str).chain([NAMESPACE]) {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
            self.kubectl.apply(&namespace.to_string())?;
        }
        Ok(())
    }

    /// Installs or upgrades both charts; changes nothing where they are as they should be.
    pub fn install(&self, layout: &Layout) -> Result<()> {
        self.namespaces()?;
        for chart in ["freehold-crds", RELEASE] {
            let path = layout.repo.join("charts").join(chart);
            let values = layout.state.join(format!("{chart}.values.json"));
            shell::write_file(&values, if chart == RELEASE { self.values() } else { "{}".into() })?;
            let (path, values) = (path.to_string_lossy().into_owned(), values.to_string_lossy().into_owned());
            let common = [chart, path.as_str(), "--namespace", NAMESPACE, "--values", values.as_str()];
            let rendered = shell::output(self.helm(&["template", "--kube-version", "1.34.0"]).args(common)).unwrap_or_default();
            let installed = shell::output(&mut self.helm(&["get", "manifest", chart, "--namespace", NAMESPACE])).unwrap_or_default();
            if rendered.is_empty() || normal(&rendered) != normal(&installed) {
                shell::run(self.helm(&["upgrade", "--install", "--wait", "--timeout", "120s"]).args(common))?;
            }
        }
        Ok(())
    }
}

/// Manifests without comments, empty lines and order of documents.
fn normal(text: &str) -> Vec<String> {
    let mut documents: Vec<String> = format!("\n{text}")
        .split("\n---")
        .map(|document| document.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect::<Vec<_>>().join("\n"))
        .filter(|document| !document.is_empty())
        .collect();
    documents.sort_unstable();
    documents
}

/// Version -> image name.
pub fn kafka_map(images: &[(String, Image)]) -> BTreeMap<String, String> {
    images.iter().map(|(version, image)| (version.clone(), image.name.clone())).collect()
}
