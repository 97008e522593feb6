//! The load of a broker, as the broker itself reports it. Pure.

use std::collections::BTreeMap;

/// A DescribeAcls request with this resource name returns the load of a node instead of ACLs: each
/// measure is an ACL whose resource is named `measure=value`. The broker's ShadowAuthorizer knows
/// this name.
pub const MARK: &str = "freehold.dev/load";

/// Averages over at most the last minute; 0 if the node does not report the measure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Fraction of the CPUs available to the node that it used, over a minute.
    pub cpu: f64,
    /// Fraction of the last ten seconds in which some of its tasks waited for a CPU.
    pub cpu_pressure: f64,
    /// The same for the last two seconds.
    pub cpu_pressure_now: f64,
    /// Fraction of the last ten seconds in which some of its tasks waited for a disk.
    pub io_pressure: f64,
    /// Bytes per second to and from clients and other brokers, over a minute.
    pub bytes: f64,
}

impl Load {
    /// Parses measures as a node reports them, each as `cpu=0.1234`. Unknown measures are ignored.
    pub fn of<'a>(measures: impl IntoIterator<Item = &'a str>) -> Self {
        let value = |text: &'a str| {
            let (name, value) = text.split_once('=')?;
            Some((
                name,
                value
                    .parse::<f64>()
                    .ok()
                    .filter(|value| value.is_finite() && *value >= 0.0)?,
            ))
        };
        let all: BTreeMap<&str, f64> = measures.into_iter().filter_map(value).collect();
        let of = |name: &str| all.get(name).copied().unwrap_or(0.0);
        Self {
            cpu: of("cpu"),
            cpu_pressure: of("cpuPressure"),
            cpu_pressure_now: of("cpuPressureNow"),
            io_pressure: of("ioPressure"),
            bytes: of("bytesIn") + of("bytesOut") + of("replicationIn") + of("replicationOut"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Load;

    #[test]
    fn measures_are_read_and_what_is_none_is_passed_over() {
        let load = Load::of([
            "cpu=0.2500",
            "bytesIn=100.0000",
            "replicationOut=50",
            "ioPressure=-1",
            "cpuPressure=x",
            "other=3",
            "cpu",
        ]);
        assert_eq!(
            load,
            Load {
                cpu: 0.25,
                bytes: 150.0,
                ..Load::default()
            }
        );
    }
}
