//! `cargo xtask generate`: writes files that are made from others. `--check` only checks whether
//! they are up to date.

use crate::cargo::{Profile, cargo};
use crate::layout::Layout;
use crate::{builds, images, prerequisites};
use anyhow::{Context, Result, bail};
use freehold_e2e::shell::{self, command};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Options {
    /// Change nothing; fail when a file is not what it would be.
    #[arg(long)]
    pub check: bool,
}

/// A file and its expected content.
type Generated = (PathBuf, String);

pub fn generate(layout: &Layout, options: &Options) -> Result<()> {
    let mut files = of_operator(layout, options.check)?;
    files.extend(config_lists(layout)?);
    let stale: Vec<_> = files
        .iter()
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text))
        .collect();
    if options.check && !stale.is_empty() {
        let names: Vec<_> = stale
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        bail!(
            "not as generated: {}; run `cargo xtask generate`",
            names.join(", ")
        );
    }
    for (path, text) in stale {
        shell::write_file(path, text)?;
        println!("wrote {}", path.display());
    }
    // The manifests are rendered from the charts, so this comes after the generated templates.
    let manifests = manifests(layout)?;
    for (path, text) in manifests
        .iter()
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text))
    {
        if options.check {
            bail!(
                "not as generated: {}; run `cargo xtask generate`",
                path.display()
            );
        }
        shell::write_file(path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// What the operator's binary prints: one file for each kind in crds/, the same files as templates
/// of the chart, which keeps them on uninstall, the charts' rules, and the pages of docs/reference.
fn of_operator(layout: &Layout, check: bool) -> Result<Vec<Generated>> {
    // `cargo xtask test` has already built the operator that it tests: a check uses that binary and
    // compiles nothing more.
    let built = check
        .then(|| builds::operator(layout, Profile::Local))
        .transpose()?;
    let freehold = |what: &str| match &built {
        Some(built) => {
            shell::output(command(&built.to_string_lossy(), [what]).current_dir(&layout.repo))
        }
        None => shell::output(&mut cargo(
            layout,
            [
                "run",
                "--quiet",
                "--locked",
                "--package",
                "freehold",
                "--",
                what,
            ],
        )?),
    };
    let text = freehold("crds")?;
    let mut files = Vec::new();
    for document in text
        .split("---\n")
        .filter(|document| !document.trim().is_empty())
    {
        let name = document
            .lines()
            .find_map(|line| line.strip_prefix("  name: "))
            .unwrap_or_default();
        let file = format!("{}.yaml", name.split('.').next().unwrap_or_default());
        let document = format!("{}\n", document.trim_end());
        files.push((layout.repo.join("crds").join(&file), document.clone()));
        let kept = document.replacen(
            "metadata:\n",
            "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n",
            1,
        );
        files.push((
            layout
                .repo
                .join("charts/freehold-crds/templates")
                .join(&file),
            kept,
        ));
    }
    let made: BTreeMap<String, String> =
        serde_json::from_str(&freehold("reference")?).context("freehold reference")?;
    files.extend(
        made.into_iter()
            .map(|(path, text)| (layout.repo.join(path), text)),
    );
    Ok(files)
}

/// Kafka's own lists of configs, printed with the jars of each version.
fn config_lists(layout: &Layout) -> Result<Vec<Generated>> {
    let java =
        prerequisites::jdk_of(layout, prerequisites::java_feature(layout)?)?.join("bin/java");
    let mut files = Vec::new();
    for version in images::kafka_versions(layout)? {
        let jars = builds::kafka_jars(layout, &version)?;
        let mut print = command(
            &java.to_string_lossy(),
            ["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp"],
        );
        let list = shell::output(
            print
                .arg(jars.join("libs/*"))
                .arg(layout.repo.join("xtask/java/ConfigLists.java")),
        )?;
        files.push((
            layout
                .repo
                .join(format!("crates/kafka/src/configs/{version}.json")),
            list + "\n",
        ));
    }
    Ok(files)
}

/// The operator's plain manifests for users without Helm: the chart with its default values.
fn manifests(layout: &Layout) -> Result<Vec<Generated>> {
    let helm = builds::go_programs(layout)?.join("helm");
    let chart = |name: &str, more: &[&str]| {
        render(&helm, &layout.repo.join("charts").join(name), name, more)
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: freehold-system\n  \
                     labels:\n    pod-security.kubernetes.io/enforce: restricted\n";
    Ok(vec![
        (
            layout.repo.join("deploy/manifests/crds.yaml"),
            chart("freehold-crds", &[])?,
        ),
        (
            layout.repo.join("deploy/manifests/operator.yaml"),
            format!("{namespace}{}", chart("freehold", &[])?),
        ),
    ])
}

fn render(helm: &Path, chart: &Path, release: &str, more: &[&str]) -> Result<String> {
    let text = shell::output(
        command(
            &helm.to_string_lossy(),
            [
                "template",
                release,
                "--namespace",
                "freehold-system",
                "--kube-version",
                "1.34.0",
                "--no-hooks",
            ],
        )
        .arg(chart)
        .args(more),
    )?;
    Ok(text + "\n")
}
