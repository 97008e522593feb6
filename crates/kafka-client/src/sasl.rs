//! SASL SCRAM-SHA-512 over SaslHandshake and SaslAuthenticate (KIP-152).

use super::connection::Connection;
use super::{AdminError, AdminResult};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use freehold_kafka::scram;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use rand::distr::{Alphanumeric, SampleString};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// Kafka's default is 4096 and its maximum 16384. A higher number from a server could only serve to
/// waste CPU time.
const ITERATIONS_MAX: u32 = 16_384;

/// A user with its password.
#[derive(Clone)]
pub struct ScramLogin {
    pub user: String,
    pub password: String,
}

fn refused(message: impl Into<String>) -> AdminError {
    AdminError::Refused {
        api: "SaslAuthenticate",
        error: "SaslAuthenticationFailed".into(),
        retriable: false,
        message: Some(message.into()),
    }
}

/// Logs in, and verifies that the broker knows a hash of the password.
pub async fn authenticate(connection: &Connection, login: &ScramLogin) -> AdminResult<()> {
    let handshake =
        SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("SCRAM-SHA-512"));
    let answer = connection.send(&handshake, 1, LIMIT).await?;
    if answer.error_code != 0 {
        return Err(refused("the listener has no SCRAM-SHA-512"));
    }
    let nonce = Alphanumeric.sample_string(&mut rand::rng(), 24);
    let user = login.user.replace('=', "=3D").replace(',', "=2C");
    let first_bare = format!("n={user},r={nonce}");
    let server_first = exchange(connection, format!("n,,{first_bare}")).await?;
    let field = |text: &str, key: &str| {
        text.split(',')
            .find_map(|part| part.strip_prefix(key).map(str::to_owned))
    };
    let missing = || AdminError::Protocol("an incomplete SCRAM challenge".into());
    let combined = field(&server_first, "r=")
        .filter(|combined| combined.starts_with(&nonce))
        .ok_or_else(missing)?;
    let salt = field(&server_first, "s=")
        .and_then(|salt| BASE64_STANDARD.decode(salt).ok())
        .ok_or_else(missing)?;
    let iterations: u32 = field(&server_first, "i=")
        .and_then(|count| count.parse().ok())
        .ok_or_else(missing)?;
    if !(scram::ITERATIONS..=ITERATIONS_MAX).contains(&iterations) {
        return Err(AdminError::Protocol(format!(
            "{iterations} SCRAM iterations"
        )));
    }
    let password = login.password.clone();
    let salted =
        tokio::task::spawn_blocking(move || scram::salted_password(&password, &salt, iterations))
            .await
            .map_err(|error| AdminError::Protocol(error.to_string()))?;
    let without_proof = format!("c=biws,r={combined}");
    let message = format!("{first_bare},{server_first},{without_proof}");
    let proof = BASE64_STANDARD.encode(scram::client_proof(&salted, &message));
    let server_final = exchange(connection, format!("{without_proof},p={proof}")).await?;
    let expected = BASE64_STANDARD.encode(scram::server_signature(&salted, &message));
    if field(&server_final, "v=").as_deref() == Some(&expected) {
        Ok(())
    } else {
        Err(refused("the broker does not know the password"))
    }
}

async fn exchange(connection: &Connection, text: String) -> AdminResult<String> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(text));
    let answer = connection.send(&request, 2, LIMIT).await?;
    if answer.error_code != 0 {
        return Err(refused(
            answer
                .error_message
                .map(|message| message.to_string())
                .unwrap_or_default(),
        ));
    }
    String::from_utf8(answer.auth_bytes.to_vec())
        .map_err(|_| AdminError::Protocol("a SCRAM message that is not text".into()))
}
