//! `cargo xtask up`.

use crate::layout::Layout;
use crate::{builds, images, local, prerequisites};
use anyhow::Result;

#[derive(clap::Args)]
pub struct Options {
    /// Stop when the local Kubernetes is Ready, without Freehold.
    #[arg(long)]
    ground: bool,
}

pub fn up(layout: &Layout, options: &Options) -> Result<()> {
    prerequisites::ensure(layout)?;
    let bin = builds::go_programs(layout)?;
    let ground = images::ground(layout)?;
    local::up(layout, &bin)?;
    images::load(layout, &ground)?;
    let java = prerequisites::java_feature(layout)?;
    for v in images::kafka_versions(layout)? {
        let t = std::time::Instant::now();
        let i = images::kafka(layout, &v, java)?;
        images::load(layout, &[i])?;
        println!("{v} {:?}", t.elapsed());
    }
    let _ = options.ground;
    Ok(())
}
