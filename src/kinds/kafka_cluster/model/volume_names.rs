//! The names of a node's data volumes: in its pod, of their claims, and where they are mounted.
//! Pure.

/// The folder where the first volume is mounted.
pub const DATA_FOLDER: &str = "/var/lib/kafka/data";
/// The name of the first data volume in a pod, and the prefix of the others.
pub const DATA: &str = "data";

/// The name of a data volume in a pod: `data`, or `data-` and the name in the spec.
pub fn pod_volume(name: &str) -> String {
    if name.is_empty() {
        DATA.to_owned()
    } else {
        format!("{DATA}-{name}")
    }
}

/// The reverse of [`pod_volume`]; `None` for a volume that holds no data.
pub fn volume_name(pod_volume: &str) -> Option<&str> {
    pod_volume.strip_prefix(DATA).and_then(|rest| {
        if rest.is_empty() {
            Some(rest)
        } else {
            rest.strip_prefix('-')
        }
    })
}

/// The name of a pod's claim for a volume.
pub fn claim_name(volume: &str, pod: &str) -> String {
    format!("{}-{pod}", pod_volume(volume))
}

/// The reverse of [`claim_name`]: the volume that a claim of this pod is for; `None` for a claim of
/// another pod.
pub fn claimed_volume<'a>(claim: &'a str, pod: &str) -> Option<&'a str> {
    claim
        .strip_suffix(pod)?
        .strip_suffix('-')
        .and_then(volume_name)
}

/// Kafka's log folder on a volume.
pub fn log_folder(volume: &str) -> String {
    format!("{}/log", mount_path(volume))
}

/// The folder where a volume is mounted.
pub fn mount_path(volume: &str) -> String {
    if volume.is_empty() {
        DATA_FOLDER.to_owned()
    } else {
        format!("{DATA_FOLDER}-{volume}")
    }
}
