//! Installs Freehold on a cluster: CRDs and operator from their charts, namespaces, images.

use crate::images::Image;
use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
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
    pub runner: String,
    /// Version -> image.
    pub kafka: BTreeMap<String, String>,
    pub watch_namespaces: Vec<String>,
}

impl Installation {
    fn helm(&self, args: &[&str]) -> Command {
        let mut helm = Command::new(&self.helm);
        helm.args(&self.target)
            .args(args)
            .stdin(std::process::Stdio::null());
        helm
    }

    /// The chart's values for this installation.
    fn values(&self) -> String {
        let image = |name: &str| {
            let (repository, tag) = repository_and_tag(name);
            json!({"repository": repository, "tag": tag})
        };
        json!({
            "image": image(&self.operator),
            "runnerImage": image(&self.runner),
            "kafkaImages": self.kafka,
            "watchNamespaces": self.watch_namespaces,
            "log": {"level": "info", "format": "human"},
        })
        .to_string()
    }

    /// Creates the namespaces with Pod Security `restricted`.
    pub fn namespaces(&self) -> Result<()> {
        for name in self
            .watch_namespaces
            .iter()
            .map(String::as_str)
            .chain([NAMESPACE])
        {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
            self.kubectl.apply(&namespace.to_string())?;
        }
        Ok(())
    }

    /// Installs or upgrades both charts; changes nothing if they are up to date.
    pub fn install(&self, layout: &Layout) -> Result<()> {
        self.namespaces()?;
        for chart in ["freehold-crds", RELEASE] {
            let path = layout.repo.join("charts").join(chart);
            let values = layout.state.join(format!("{chart}.values.json"));
            shell::write_file(
                &values,
                if chart == RELEASE {
                    self.values()
                } else {
                    "{}".into()
                },
            )?;
            let (path, values) = (
                path.to_string_lossy().into_owned(),
                values.to_string_lossy().into_owned(),
            );
            let common = [
                chart,
                path.as_str(),
                "--namespace",
                NAMESPACE,
                "--values",
                values.as_str(),
            ];
            let rendered = shell::output(
                self.helm(&["template", "--no-hooks", "--kube-version", "1.34.0"])
                    .args(common),
            )
            .unwrap_or_default();
            let installed = shell::output(&mut self.helm(&[
                "get",
                "manifest",
                chart,
                "--namespace",
                NAMESPACE,
            ]))
            .unwrap_or_default();
            if rendered.is_empty() || normal(&rendered) != normal(&installed) {
                shell::run(
                    self.helm(&["upgrade", "--install", "--wait", "--timeout", "600s"])
                        .args(common),
                )?;
            }
        }
        Ok(())
    }
}

/// The parts of an image's name as the chart has them. A colon before the last slash is that of the
/// registry's port.
pub fn repository_and_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, ""),
    }
}

/// Manifests for a comparison: without comments and empty lines, and with sorted documents.
fn normal(text: &str) -> Vec<String> {
    let mut documents: Vec<String> = format!("\n{text}")
        .split("\n---")
        .map(|document| {
            document
                .lines()
                .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
                .collect::<Vec<_>>()
                .join("\n")
        })
        .filter(|document| !document.is_empty())
        .collect();
    documents.sort_unstable();
    documents
}

/// Version -> image name.
pub fn kafka_map(images: &[(String, Image)]) -> BTreeMap<String, String> {
    images
        .iter()
        .map(|(version, image)| (version.clone(), image.name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_registry_is_no_tag() {
        for (name, parts) in [
            ("r:5000/freehold:1.0", ("r:5000/freehold", "1.0")),
            ("r:5000/freehold", ("r:5000/freehold", "")),
            ("freehold", ("freehold", "")),
        ] {
            assert_eq!(repository_and_tag(name), parts);
        }
    }
}
