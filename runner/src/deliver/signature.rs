//! Signs requests to S3: AWS Signature Version 4, with the hash of the body, in headers. Pure.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::fmt::Write as _;

use ring::{digest, hmac};

/// Who signs, and for where.
pub struct Signer<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub region: &'a str,
    /// `20130524T000000Z`.
    pub time: &'a str,
}

/// The hash of a body, in hexadecimal digits.
pub fn hash(body: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, body).as_ref())
}

/// A path in which only the letters stand that need no escape, and slashes.
pub fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The header `Authorization` of a request without a query. `headers` are all that are signed, in
/// lower case and sorted by name; `x-amz-content-sha256` is one of them.
pub fn authorization(
    signer: &Signer<'_>,
    method: &str,
    escaped_path: &str,
    headers: &[(&str, String)],
) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let hash_of_body = headers
        .iter()
        .find(|(name, _)| *name == "x-amz-content-sha256");
    let hash_of_body = hash_of_body.map_or("UNSIGNED-PAYLOAD", |(_, value)| value);
    let mut canonical = format!("{method}\n{escaped_path}\n\n");
    for (name, value) in headers {
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{hash_of_body}");
    let date = signer.time.get(..8).unwrap_or_default();
    let scope = format!("{date}/{}/s3/aws4_request", signer.region);
    let text = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        signer.time,
        hash(canonical.as_bytes())
    );
    let mut key = format!("AWS4{}", signer.secret_access_key).into_bytes();
    for part in [date, signer.region, "s3", "aws4_request"] {
        key = mac(&key, part).as_ref().to_vec();
    }
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={}",
        signer.access_key_id,
        hex(mac(&key, &text).as_ref())
    )
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the documentation: PUT Object.
    #[test]
    fn the_signature_of_the_documentation() {
        let signer = Signer {
            access_key_id: "AKIAIOSFODNN7EXAMPLE",
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            time: "20130524T000000Z",
        };
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("host", "examplebucket.s3.amazonaws.com".to_owned()),
            ("x-amz-content-sha256", hash(b"Welcome to Amazon S3.")),
            ("x-amz-date", "20130524T000000Z".to_owned()),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
        ];
        let path = escaped("/test$file.text");
        let signed = authorization(&signer, "PUT", &path, &headers);
        let expected = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd";
        assert!(
            signed.ends_with(&format!("Signature={expected}")),
            "{signed}"
        );
    }
}
