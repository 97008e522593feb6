//! What blocks say of a place outside Kafka: where it is, and which Secret opens it. Secrets are
//! named, never held: a runner reads them from files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names of objects: they become folders of a pod.
const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A Secret of the Pipeline's namespace.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct SecretRef {
    /// `metadata.name` of the Secret.
    #[schemars(regex(pattern = OBJECT_NAME), length(min = 1, max = 253))]
    pub name: String,
}

/// One key of a Secret of the Pipeline's namespace.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct SecretKey {
    /// `metadata.name` of the Secret.
    #[schemars(regex(pattern = OBJECT_NAME), length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(regex(pattern = "^[-._a-zA-Z0-9]+$"), length(min = 1, max = 253))]
    pub key: String,
}

/// Who a client is: one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpAuthentication {
    /// `Authorization: Bearer <the value of this key>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretKey>,
    /// `Authorization: Basic`, with the keys `username` and `password` of this Secret
    /// (`kubernetes.io/basic-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<SecretRef>,
}

/// An MQTT broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqttBroker {
    /// The broker: `mqtts://host:8883`, or `mqtt://host:1883` without TLS.
    #[schemars(length(min = 1, max = 500))]
    pub url: String,
    #[serde(default)]
    pub version: MqttVersion,
    /// A Secret with the keys `username` and `password` (`kubernetes.io/basic-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<SecretRef>,
    /// PEM certificates of the authorities that sign the broker's certificate. Default: those that
    /// browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretKey>,
}

/// The version of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    /// 5.0.
    #[default]
    V5,
    /// 3.1.1.
    V311,
}

/// A file of a Secret, by its path below the folder of secrets: `<secret>/<key>`.
pub fn secret_file(secret: &str, key: &str) -> String {
    format!("{secret}/{key}")
}

/// The host and the port of a URL with one of these schemes, each with its usual port.
///
/// # Errors
/// What is wrong with it, in words.
pub fn host_and_port(url: &str, schemes: &[(&str, u16)]) -> Result<(String, u16), String> {
    let known: Vec<String> = schemes
        .iter()
        .map(|(name, _)| format!("{name}://"))
        .collect();
    let wrong = || {
        format!(
            "{url:?}: a URL begins with {} and has a host, such as {}example.com",
            known.join(" or "),
            known.first().map_or("", String::as_str)
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let usual = schemes.iter().find(|(name, _)| *name == scheme);
    let (_, usual) = usual.ok_or_else(wrong)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(format!(
            "{scheme}://…@…: a user or a password stands in the URL, where everybody reads it; \
             remove it, and name a Secret"
        ));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => *usual,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)?,
    };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte);
    if host.is_empty() || !host.bytes().all(letters) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    const HTTP: [(&str, u16); 2] = [("https", 443), ("http", 80)];

    #[test]
    fn the_host_and_the_port_of_a_url() {
        let of = |url: &str| host_and_port(url, &HTTP);
        assert_eq!(of("https://a.example/b?c#d"), Ok(("a.example".into(), 443)));
        assert_eq!(of("http://a"), Ok(("a".into(), 80)));
        assert_eq!(of("http://10.0.0.1:8080/x"), Ok(("10.0.0.1".into(), 8080)));
        assert_eq!(of("http://[::1]:81"), Ok(("::1".into(), 81)));
        let wrong = of("ftp://a").unwrap_err();
        assert_eq!(
            wrong,
            "\"ftp://a\": a URL begins with https:// or http:// and has a host, such as \
             https://example.com"
        );
        for url in [
            "a.example",
            "http://",
            "http://a:b",
            "http://a:0",
            "http://[::1",
            "http://ä",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let wrong = host_and_port("https://user:hush@a.example", &HTTP).unwrap_err();
        assert!(
            !wrong.contains("hush") && wrong.contains("name a Secret"),
            "{wrong}"
        );
    }
}
