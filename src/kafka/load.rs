//! How busy a broker is, by its own word. Pure.

use std::collections::BTreeMap;

/// DescribeAcls with this name as filter answers a node's load, each measure a rule whose resource is named `measure=value`: the
/// broker's ShadowAuthorizer knows it by this name.
pub const MARK: &str = "freehold.dev/load";

/// Averages of the last minute or less; 0 where a node does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Share of the CPUs that it may use, over a minute.
    pub cpu: f64,
    /// Share of the last ten seconds in which some of its work waited for a CPU.
    pub cpu_pressure: f64,
    /// The same of the last two seconds.
    pub cpu_pressure_now: f64,
    /// Share of the last ten seconds in which some of its work waited for a disk.
    pub io_pressure: f64,
    /// Bytes per second from and to clients and other brokers, over a minute.
    pub bytes: f64,
}

impl Load {
    /// From measures as a node tells them, `cpu=0.1234` each; those that are not known are passed over.
    pub fn of<'a>(measures: impl IntoIterator<Item = &'a str>) -> Self {
        let value = |text: &'a str| {
            let (name, value) = text.split_once('=')?;
            Some((name, value.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)?))
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
        let load = Load::of(["cpu=0.2500", "bytesIn=100.0000", "replicationOut=50", "ioPressure=-1", "cpuPressure=x", "other=3", "cpu"]);
        assert_eq!(load, Load { cpu: 0.25, bytes: 150.0, ..Load::default() });
    }
}
