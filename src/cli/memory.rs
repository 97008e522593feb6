//! How much memory a command may take that runs beside the operator, in the same container
//! (`kubectl exec`): what is left of the container's limit, less a reserve for the operator. Past
//! it the command ends, alone. Without it the kernel would end every process of the container
//! (`memory.oom.group`), the leader with it.

use crate::cli::operator::MainError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// cgroup v2, as a container sees its own.
const LIMIT: &str = "/sys/fs/cgroup/memory.max";
const USED: &str = "/sys/fs/cgroup/memory.current";
/// What of it the kernel can take back at once.
const FILES: &str = "/sys/fs/cgroup/memory.stat";
/// What the operator may come to use meanwhile.
const RESERVE_BYTES: u64 = 24 * MIB;
/// With less no cluster's metadata can be read.
const LEAST_BYTES: u64 = 24 * MIB;
const MIB: u64 = 1024 * 1024;

/// Bounds this process by what its container has left; no bound where the container has none.
///
/// # Errors
/// Too little is left.
pub fn bounded() -> Result<(), MainError> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let Some(budget) = budget(&read(LIMIT), &read(USED), &read(FILES))? else {
        return Ok(());
    };
    let hard = getrlimit(Resource::Data).maximum;
    // What the process has mapped by now counts as well.
    setrlimit(
        Resource::Data,
        Rlimit {
            current: Some(hard.map_or(budget, |hard| hard.min(budget))),
            maximum: hard,
        },
    )?;
    Ok(())
}

fn budget(limit: &str, used: &str, stat: &str) -> Result<Option<u64>, String> {
    let (Ok(limit), Ok(used)) = (limit.trim().parse::<u64>(), used.trim().parse::<u64>()) else {
        return Ok(None);
    };
    let files = stat
        .lines()
        .filter_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok())
        .sum::<u64>();
    let left = limit
        .saturating_sub(used.saturating_sub(files))
        .saturating_sub(RESERVE_BYTES);
    if left < LEAST_BYTES {
        return Err(format!(
            "{} MiB of this container's memory are left beside the operator, and {} are needed: raise resources.limits.memory of the chart, or run this in a pod of its own (docs/guide/commands.md)",
            left / MIB,
            LEAST_BYTES / MIB
        ));
    }
    Ok(Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_leaves_is_the_budget_and_too_little_is_said() {
        let mib = |mib: u64| (mib * MIB).to_string();
        assert_eq!(budget(&mib(128), &mib(60), "").unwrap(), Some(44 * MIB));
        assert_eq!(
            budget(
                &mib(128),
                &format!("{}\n", mib(60)),
                &format!("anon 1\ninactive_file {}\n", mib(10))
            )
            .unwrap(),
            Some(54 * MIB)
        );
        assert_eq!(budget("max\n", &mib(60), "").unwrap(), None, "no limit");
        assert_eq!(budget("", "", "").unwrap(), None, "no cgroup v2");
        let refused = budget(&mib(128), &mib(100), "").unwrap_err();
        assert!(
            refused.contains("4 MiB") && refused.contains("limits.memory"),
            "{refused}"
        );
        assert!(budget(&mib(128), &mib(200), "").is_err());
    }
}
