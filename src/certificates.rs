//! Certificates: authorities, what they issue, and what can be read from them. Issuing draws random keys: only
//! `apply` does it. Keys are ECDSA P-256 in PKCS#8.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::{Pem, parse_x509_pem};

/// Organization in the subjects of nodes and operator. Clients' principals can never look like these: their
/// listeners map a certificate to its common name alone.
pub const ORGANIZATION: &str = "freehold.dev";
pub const NODE_NAME: &str = "freehold-node";
pub const OPERATOR_NAME: &str = "freehold-operator";
/// Ten years: authorities are rotated on purpose, not by surprise.
pub const AUTHORITY_DAYS: u32 = 3650;
/// Clocks differ.
const BACKDATE_MINUTES: i64 = 10;

/// A certificate (chain) and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedCertificate {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedCertificate { .. }")
    }
}

/// What cannot be read or issued.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    #[error("the private key cannot be read: {0}")]
    Key(String),
    #[error("the certificate is not one of a CA")]
    NotAuthority,
    #[error("the private key is not that of the certificate")]
    KeyMismatch,
    #[error("issuing failed: {0}")]
    Issue(#[source] rcgen::Error),
}

/// What a certificate is for.
pub enum Purpose<'a> {
    /// Server and client: brokers and controllers.
    Node { hosts: &'a [String] },
    /// Client only.
    Client,
}

/// What can be read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub not_after: Timestamp,
    pub hosts: Vec<String>,
}

fn params(organization: Option<&str>, common_name: &str, now: Timestamp, days: u32) -> CertificateParams {
    let mut name = DistinguishedName::new();
    // RFC 2253 prints the last part first: `CN=…,O=…`.
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    let time = |at: Timestamp| time::OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = time(now - SignedDuration::from_mins(BACKDATE_MINUTES));
    params.not_after = time(now + SignedDuration::from_hours(24 * i64::from(days)));
    params
}

/// Makes a CA.
pub fn new_authority(common_name: &str, now: Timestamp) -> Result<KeyedCertificate, CertificateError> {
    let mut params = params(Some(ORGANIZATION), common_name, now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(CertificateError::Issue)?;
    let certificate = params.self_signed(&key).map_err(CertificateError::Issue)?;
    Ok(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Issues a certificate.
pub fn issue(
    authority: &KeyedCertificate,
    organization: Option<&str>,
    common_name: &str,
    purpose: &Purpose<'_>,
    now: Timestamp,
    days: u32,
) -> Result<KeyedCertificate, CertificateError> {
    let ca_key = KeyPair::from_pem(&authority.key).map_err(|error| CertificateError::Key(error.to_string()))?;
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, ca_key).map_err(|error| CertificateError::Certificate(error.to_string()))?;
    let mut params = params(organization, common_name, now, days);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if let Purpose::Node { hosts } = purpose {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        for host in *hosts {
            let name = host.as_str().try_into().map_err(CertificateError::Issue)?;
            params.subject_alt_names.push(rcgen::SanType::DnsName(name));
        }
    }
    let key = KeyPair::generate().map_err(CertificateError::Issue)?;
    let certificate = params.signed_by(&key, &issuer).map_err(CertificateError::Issue)?;
    Ok(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Reads a certificate's end and hosts.
pub fn facts(pem: &str) -> Result<Facts, CertificateError> {
    let bad = |why: String| CertificateError::Certificate(why);
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let certificate = block.parse_x509().map_err(|error| bad(error.to_string()))?;
    let seconds = certificate.validity().not_after.timestamp();
    let mut hosts = Vec::new();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        hosts.extend(names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(host) => Some((*host).to_owned()),
            _ => None,
        }));
    }
    Ok(Facts { not_after: Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX), hosts })
}

/// True when `authority` signed the certificate.
pub fn signed_by(pem: &str, authority_pem: &str) -> bool {
    let (Ok((_, leaf)), Ok((_, authority))) = (parse_x509_pem(pem.as_bytes()), parse_x509_pem(authority_pem.as_bytes())) else {
        return false;
    };
    let (Ok(leaf), Ok(authority)) = (leaf.parse_x509(), authority.parse_x509()) else { return false };
    leaf.issuer() == authority.subject() && leaf.verify_signature(Some(authority.public_key())).is_ok()
}

/// Checks that PEM holds certificates of CAs and nothing else.
pub fn check_trusted(pem: &str) -> Result<(), CertificateError> {
    let mut found = false;
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|error| CertificateError::Certificate(error.to_string()))?;
        let certificate = block.parse_x509().map_err(|error| CertificateError::Certificate(error.to_string()))?;
        if !certificate.is_ca() {
            return Err(CertificateError::NotAuthority);
        }
        found = true;
    }
    if found { Ok(()) } else { Err(CertificateError::Certificate("no PEM in it".into())) }
}

/// Checks that a given certificate and key are those of a CA that can sign.
pub fn check_authority(authority: &KeyedCertificate) -> Result<(), CertificateError> {
    let (_, block) = parse_x509_pem(authority.certificate.as_bytes()).map_err(|error| CertificateError::Certificate(error.to_string()))?;
    let certificate = block.parse_x509().map_err(|error| CertificateError::Certificate(error.to_string()))?;
    if !certificate.is_ca() {
        return Err(CertificateError::NotAuthority);
    }
    let key = KeyPair::from_pem(&authority.key).map_err(|error| CertificateError::Key(error.to_string()))?;
    let subject_key = certificate.public_key().subject_public_key.data.as_ref();
    if key.public_key_raw() != subject_key {
        return Err(CertificateError::KeyMismatch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_issues_is_known_as_its_own_and_carries_hosts_and_end() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let authority = new_authority("test", now).unwrap();
        let other = new_authority("test", now).unwrap();
        check_authority(&authority).unwrap();
        check_trusted(&format!("{}{}", authority.certificate, other.certificate)).unwrap();
        assert!(check_trusted("").is_err());
        let hosts = ["a.b.svc".to_owned()];
        let node = issue(&authority, Some(ORGANIZATION), NODE_NAME, &Purpose::Node { hosts: &hosts }, now, 30).unwrap();
        assert!(signed_by(&node.certificate, &authority.certificate));
        assert!(!signed_by(&node.certificate, &other.certificate));
        let found = facts(&node.certificate).unwrap();
        assert_eq!(found, Facts { not_after: "2026-01-31T00:00:00Z".parse().unwrap(), hosts: hosts.to_vec() });
        assert!(matches!(check_authority(&node), Err(CertificateError::NotAuthority)));
        assert!(matches!(check_trusted(&node.certificate), Err(CertificateError::NotAuthority)));
        let mixed = KeyedCertificate { certificate: authority.certificate, key: other.key };
        assert!(matches!(check_authority(&mixed), Err(CertificateError::KeyMismatch)));
    }
}
