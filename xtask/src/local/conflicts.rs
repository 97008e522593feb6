//! What else on this machine has what the local cluster needs: a port, an address range or a folder.
//! It is named before anything is started, with the way out.

use super::{network, process};
use crate::layout::Layout;
use anyhow::{Result, bail, ensure};
use freehold_e2e::shell::{self, command};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

/// Daemons and the ports at which they listen in the root network namespace.
const PORTS: [(&str, Ipv4Addr, u16); 5] = [
    ("etcd", Ipv4Addr::LOCALHOST, 23790),
    ("etcd", Ipv4Addr::LOCALHOST, 23800),
    ("kube-apiserver", Ipv4Addr::UNSPECIFIED, 6443),
    ("kube-controller-manager", Ipv4Addr::LOCALHOST, 10257),
    ("kube-scheduler", Ipv4Addr::LOCALHOST, 10259),
];

/// # Errors
/// Something else is in the way.
pub fn check(layout: &Layout) -> Result<()> {
    for folder in [&layout.run, &layout.state] {
        ensure!(
            !folder.exists() || folder.is_dir(),
            "{} is not a folder, and the local cluster needs it as one: move it away",
            folder.display()
        );
    }
    let addresses = shell::output(&mut command("ip", ["-4", "-oneline", "addr", "show"]))?;
    if let Some((device, range)) = foreign_device(&addresses) {
        bail!(
            "the local cluster needs addresses {range}.*, which {device} has: take that interface \
             down (ip link delete {device}, if nothing needs it), or run this on another machine"
        );
    }
    for (daemon, address, port) in PORTS {
        if process::alive(layout, daemon).is_some() {
            continue;
        }
        if let Some(holder) = holder(address, port)
            && !is_ours(layout, &holder)
        {
            bail!(
                "{daemon} of the local cluster needs port {port}, at which {} listens: stop it, or \
                 run this on another machine",
                holder.words()
            );
        }
    }
    Ok(())
}

/// The device that has an address in a range of the local cluster and is none of its own.
fn foreign_device(addresses: &str) -> Option<(&str, &'static str)> {
    addresses.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (device, address) = (words.next()?, words.nth(1)?);
        let range = network::PREFIXES
            .into_iter()
            .find(|prefix| address.starts_with(&format!("{prefix}.")))?;
        (device != network::BRIDGE).then_some((device, range))
    })
}

/// The process that listens at a port; its id is unknown if another user has it.
struct Holder {
    pid: Option<u32>,
    program: String,
}

impl Holder {
    fn words(&self) -> String {
        match self.pid {
            Some(pid) => format!("{} (process {pid})", self.program),
            None => "another process".to_owned(),
        }
    }
}

fn holder(address: Ipv4Addr, port: u16) -> Option<Holder> {
    match TcpListener::bind((address, port)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        _ => return None,
    }
    let filter = format!("sport = :{port}");
    let words = [
        "--no-header",
        "--listening",
        "--tcp",
        "--processes",
        &filter,
    ];
    // An error means that nothing is known of the process.
    let text = shell::output(&mut command("ss", words)).unwrap_or_default();
    Some(parse_holder(&text))
}

/// Reads `users:(("etcd",pid=17,fd=3))`.
fn parse_holder(text: &str) -> Holder {
    let field = |before: &str, after: char| {
        let rest = text.split_once(before)?.1;
        Some(rest.split_once(after)?.0.to_owned())
    };
    Holder {
        pid: field("pid=", ',').and_then(|pid| pid.parse().ok()),
        program: field("((\"", '"').unwrap_or_default(),
    }
}

/// Whether an earlier run started it, and was killed before it wrote that down.
fn is_ours(layout: &Layout, holder: &Holder) -> bool {
    let Some(pid) = holder.pid else { return false };
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).contains(&layout.state.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn whoever_listens_at_a_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(holder(Ipv4Addr::LOCALHOST, port).is_some());
        drop(listener);
        assert!(holder(Ipv4Addr::LOCALHOST, port).is_none());
        let line = r#"LISTEN 0 4096 127.0.0.1:6443 0.0.0.0:* users:(("k3s-server",pid=812,fd=12))"#;
        assert_eq!(parse_holder(line).words(), "k3s-server (process 812)");
        assert_eq!(parse_holder("").words(), "another process");
    }

    #[test]
    fn a_device_with_our_addresses_is_named_if_it_is_not_ours() {
        let ours = format!("5: {} inet 172.30.98.1/24 scope global x", network::BRIDGE);
        assert_eq!(foreign_device(&ours), None);
        let other = "3: docker0 inet 10.198.0.1/16 brd 10.198.255.255 scope global docker0";
        assert_eq!(
            foreign_device(&format!("{ours}\n{other}")),
            Some(("docker0", network::POD_PREFIX))
        );
        let lo = "1: lo    inet 127.0.0.1/8 scope host lo";
        assert_eq!(foreign_device(lo), None);
    }
}
