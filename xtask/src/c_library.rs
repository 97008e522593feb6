//! Which public base image a compiled program can run on. Pure.

use anyhow::{Context, Result};

/// Public images on which the binaries can run, with the version of the C library in each.
const RUNTIME_BASES: [((u32, u32), &str); 2] = [
    ((2, 36), "debian:bookworm-slim"),
    ((2, 41), "debian:trixie-slim"),
];

/// The oldest public base whose C library is new enough for a binary.
pub fn runtime_base(binary: &[u8]) -> Result<&'static str> {
    let (major, minor) = c_library(binary);
    let base = RUNTIME_BASES
        .iter()
        .find(|(has, _)| *has >= (major, minor))
        .map(|(_, base)| *base);
    base.with_context(|| {
        format!(
            "this machine's C library is glibc {major}.{minor} or newer, and no Debian image \
                 has that: compile on Debian 12 or 13"
        )
    })
}

/// The newest version of the C library that a binary requires, from the versions of its symbols
/// (`GLIBC_2.34`).
fn c_library(binary: &[u8]) -> (u32, u32) {
    const WORD: &[u8] = b"GLIBC_";
    let at =
        (0..binary.len().saturating_sub(WORD.len())).filter(|at| binary[*at..].starts_with(WORD));
    let version = |at: usize| -> Option<(u32, u32)> {
        let rest = &binary[at + WORD.len()..];
        let end = rest
            .iter()
            .position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
        let mut numbers = std::str::from_utf8(&rest[..end]).ok()?.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    at.filter_map(version).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn the_base_has_the_c_library_that_the_binary_asks_for() {
        let binary = |version: &str| {
            format!("\0GLIBC_2.2.5\0GLIBC_{version}\0GLIBC_PRIVATE\0GLIBC_2.17\0").into_bytes()
        };
        assert_eq!(c_library(&binary("2.34")), (2, 34));
        assert_eq!(
            runtime_base(&binary("2.34")).unwrap(),
            "debian:bookworm-slim"
        );
        assert_eq!(runtime_base(&binary("2.39")).unwrap(), "debian:trixie-slim");
        assert!(
            runtime_base(&binary("2.42"))
                .unwrap_err()
                .to_string()
                .contains("glibc 2.42")
        );
    }
}
