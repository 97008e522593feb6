//! `cargo xtask generate`: files that are made from others. `--check` says whether they are what they should be.

use crate::layout::Layout;
use crate::{builds, images};
use anyhow::{Result, bail};
use ground::shell::{self, command};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Options {
    /// Change nothing; fail when a file is not what it would be.
    #[arg(long)]
    pub check: bool,
}

/// A file and what it should hold.
type Generated = (PathBuf, String);

pub fn generate(layout: &Layout, options: &Options) -> Result<()> {
    let mut files = crds(layout)?;
    files.extend(config_lists(layout)?);
    let stale: Vec<_> = files.iter().filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text)).collect();
    if options.check && !stale.is_empty() {
        let names: Vec<_> = stale.iter().map(|(path, _)| path.display().to_string()).collect();
        bail!("not as generated: {}; run `cargo xtask generate`", names.join(", "));
    }
    for (path, text) in stale {
        shell::write_file(path, text)?;
        println!("wrote {}", path.display());
    }
    // The manifests are rendered from the chart, and so after the CRDs' copies in it.
    let manifests = manifests(layout)?;
    for (path, text) in manifests.iter().filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text)) {
        if options.check {
            bail!("not as generated: {}; run `cargo xtask generate`", path.display());
        }
        shell::write_file(path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// One file a kind in crds/, and the same as templates of the chart that is kept on uninstall.
fn crds(layout: &Layout) -> Result<Vec<Generated>> {
    let text =
        shell::output(command("cargo", ["run", "--quiet", "--locked", "--package", "freehold", "--", "crds"]).current_dir(&layout.repo))?;
    let mut files = Vec::new();
    for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
        let name = document.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap_or_default();
        let file = format!("{}.yaml", name.split('.').next().unwrap_or_default());
        let document = format!("{}\n", document.trim_end());
        files.push((layout.repo.join("crds").join(&file), document.clone()));
        let kept = document.replacen("metadata:\n", "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n", 1);
        files.push((layout.repo.join("charts/freehold-crds/templates").join(&file), kept));
    }
    let reference = shell::output(
        command("cargo", ["run", "--quiet", "--locked", "--package", "freehold", "--", "reference"]).current_dir(&layout.repo),
    )?;
    files.push((layout.repo.join("docs/reference/conditions.md"), reference + "\n"));
    Ok(files)
}

/// Kafka's own lists of configs, printed by the jars of each version.
fn config_lists(layout: &Layout) -> Result<Vec<Generated>> {
    let mut files = Vec::new();
    for version in images::kafka_versions(layout)? {
        let jars = builds::kafka_jars(layout, &version)?;
        let list = shell::output(command("java", ["-cp"]).arg(jars.join("libs/*")).arg(layout.repo.join("xtask/java/ConfigLists.java")))?;
        files.push((layout.repo.join(format!("src/kafka/configs/{version}.json")), list + "\n"));
    }
    Ok(files)
}

/// The operator's plain manifests, for those who use no Helm: the chart with its defaults.
fn manifests(layout: &Layout) -> Result<Vec<Generated>> {
    let helm = builds::go_programs(layout)?.join("helm");
    let chart = |name: &str, more: &[&str]| render(&helm, &layout.repo.join("charts").join(name), name, more);
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: freehold-system\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n";
    Ok(vec![
        (layout.repo.join("deploy/manifests/crds.yaml"), chart("freehold-crds", &[])?),
        (layout.repo.join("deploy/manifests/operator.yaml"), format!("{namespace}{}", chart("freehold", &[])?)),
    ])
}

fn render(helm: &Path, chart: &Path, release: &str, more: &[&str]) -> Result<String> {
    let text = shell::output(
        command(&helm.to_string_lossy(), ["template", release, "--namespace", "freehold-system", "--kube-version", "1.34.0"])
            .arg(chart)
            .args(more),
    )?;
    Ok(text + "\n")
}
