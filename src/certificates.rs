//! Certificates: creates authorities, issues certificates, and reads facts from them. Issuing draws
//! random keys, so only `apply` does it. New keys are ECDSA P-256 in PKCS#8; the key of a CA from a
//! user may also be RSA, and in PKCS#1 or SEC1.
//!
//! The PEM of a CA has the CA's own certificate first, then the known certificates above it, up to
//! the root.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::BTreeSet;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::{Pem, parse_x509_pem};

/// Organization in the subjects of nodes and operator. The principal of a client can never look
/// like these: clients' listeners map a certificate to its common name alone.
pub const ORGANIZATION: &str = "freehold.dev";
pub const NODE_NAME: &str = "freehold-node";
pub const OPERATOR_NAME: &str = "freehold-operator";
/// Ten years: CAs are rotated on purpose, not because they expire.
pub const AUTHORITY_DAYS: u32 = 3650;
/// Certificates become valid this long before they are issued, because clocks differ.
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

/// A certificate or key that cannot be read or issued.
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
    #[error(
        "the CA's subject has {0}, which the issuer's name in a certificate would not keep; take a CA whose subject has each attribute once"
    )]
    Subject(&'static str),
    #[error("the key that this is made with is lost; the KafkaCluster says what there is to do")]
    Lost,
    #[error("issuing failed: {0}")]
    Issue(#[source] rcgen::Error),
}

/// What a certificate is for.
pub enum Purpose<'a> {
    /// Server and client certificate of a broker or controller.
    Node { hosts: &'a [String] },
    /// Server certificate of a Pipeline's HTTP source. No broker takes it for a client's.
    Server { hosts: &'a [String] },
    /// Client certificate.
    Client,
}

/// The facts that are read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub not_after: Timestamp,
    pub hosts: Vec<String>,
}

fn params(
    organization: Option<&str>,
    common_name: &str,
    now: Timestamp,
    days: u32,
) -> CertificateParams {
    let mut name = DistinguishedName::new();
    // RFC 2253 prints the last attribute first: `CN=…,O=…`.
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    let time = |at: Timestamp| {
        time::OffsetDateTime::from_unix_timestamp(at.as_second())
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = time(now - SignedDuration::from_mins(BACKDATE_MINUTES));
    params.not_after = time(now + SignedDuration::from_hours(24 * i64::from(days)));
    params
}

/// Creates a self-signed CA.
pub fn new_authority(
    common_name: &str,
    now: Timestamp,
) -> Result<KeyedCertificate, CertificateError> {
    let mut params = params(Some(ORGANIZATION), common_name, now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(CertificateError::Issue)?;
    let certificate = params.self_signed(&key).map_err(CertificateError::Issue)?;
    Ok(KeyedCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// Issues a certificate that the CA signs.
pub fn issue(
    authority: &KeyedCertificate,
    organization: Option<&str>,
    common_name: &str,
    purpose: &Purpose<'_>,
    now: Timestamp,
    days: u32,
) -> Result<KeyedCertificate, CertificateError> {
    let ca_key = key_pair(authority)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, ca_key)
        .map_err(|error| CertificateError::Certificate(error.to_string()))?;
    let mut params = params(organization, common_name, now, days);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let (client, server) = (
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    let (usages, hosts) = match purpose {
        Purpose::Node { hosts } => (vec![client, server], *hosts),
        Purpose::Server { hosts } => (vec![server], *hosts),
        Purpose::Client => (vec![client], &[][..]),
    };
    params.extended_key_usages = usages;
    for host in hosts {
        let name = host.as_str().try_into().map_err(CertificateError::Issue)?;
        params.subject_alt_names.push(rcgen::SanType::DnsName(name));
    }
    let key = KeyPair::generate().map_err(CertificateError::Issue)?;
    let certificate = params
        .signed_by(&key, &issuer)
        .map_err(CertificateError::Issue)?;
    Ok(KeyedCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// The key of a CA from any of these PEM formats: PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC1 (`EC
/// PRIVATE KEY`).
fn key_pair(authority: &KeyedCertificate) -> Result<KeyPair, CertificateError> {
    let bad = |why: &str| CertificateError::Key(why.to_owned());
    if authority.key.is_empty() {
        return Err(CertificateError::Lost);
    }
    if authority.key.contains("ENCRYPTED") {
        return Err(bad("it is encrypted; give it without a passphrase"));
    }
    let key = PrivateKeyDer::from_pem_slice(authority.key.as_bytes())
        .map_err(|_| bad("there is no PEM of a private key in it"))?;
    let pkcs8 = match &key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        other => in_pkcs8(&authority.certificate, other.secret_der())
            .ok_or_else(|| bad("it does not fit the certificate"))?,
    };
    let kinds = "it is of no kind that can be used: RSA of 2048 bits or more, ECDSA P-256 or P-384, Ed25519";
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8)).map_err(|_| bad(kinds))
}

/// Converts a key to PKCS#8 (RFC 5958): the version, the algorithm (as in the certificate's public
/// key), and the key.
fn in_pkcs8(certificate: &str, key: &[u8]) -> Option<Vec<u8>> {
    let (_, block) = parse_x509_pem(certificate.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    let public = certificate.public_key().raw;
    let kind = public.get(der_content(public)?.start..)?;
    let kind = kind.get(..der_content(kind)?.end)?;
    Some(der(
        0x30,
        &[&[0x02, 0x01, 0x00], kind, &der(0x04, key)].concat(),
    ))
}

/// The range of the content of the DER value at the start of the bytes.
fn der_content(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let first = usize::from(*bytes.get(1)?);
    let (start, length) = match first {
        0..=0x7f => (2, first),
        0x81..=0x84 => {
            let start = 2 + first - 0x80;
            (
                start,
                bytes
                    .get(2..start)?
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte)),
            )
        }
        _ => return None,
    };
    Some(start..start.checked_add(length)?)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..0x80) => bytes.push(short),
        _ => {
            let length: Vec<u8> = content
                .len()
                .to_be_bytes()
                .into_iter()
                .skip_while(|byte| *byte == 0)
                .collect();
            bytes.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
            bytes.extend(length);
        }
    }
    [bytes.as_slice(), content].concat()
}

/// Parses each certificate in the PEM. Blocks that are not certificates or cannot be read are
/// skipped.
fn each<T>(
    pem: &str,
    read: impl Fn(&x509_parser::certificate::X509Certificate<'_>, &str) -> T,
) -> Vec<T> {
    let texts = pem
        .split_inclusive("-----END CERTIFICATE-----")
        .filter_map(|text| {
            let begin = text.find("-----BEGIN CERTIFICATE-----")?;
            Some(format!("{}\n", &text[begin..]))
        });
    let parsed = texts.filter_map(|text| {
        let (_, block) = parse_x509_pem(text.as_bytes()).ok()?;
        let certificate = block.parse_x509().ok()?;
        Some(read(&certificate, &text))
    });
    parsed.collect()
}

/// The parts of a certificate that determine its place in a chain.
struct Link {
    text: String,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

fn links(pem: &str) -> Vec<Link> {
    each(pem, |certificate, text| Link {
        text: text.to_owned(),
        subject: certificate.subject().as_raw().to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
    })
}

/// The certificate of a CA and those above it up to the root, as far as `others` contains them, and
/// no other certificates.
pub fn chain(authority: &str, others: &str) -> String {
    let mut left = links(&format!("{authority}\n{others}"));
    if left.is_empty() {
        return authority.to_owned();
    }
    let mut last = left.remove(0);
    let mut pem = last.text.clone();
    while last.issuer != last.subject {
        let above = left
            .iter()
            .position(|link| link.subject == last.issuer && signed_by(&last.text, &link.text));
        let Some(above) = above else { break };
        last = left.remove(above);
        pem.push_str(&last.text);
    }
    pem
}

/// True when the PEM of a CA includes a root: clients that verify as OpenSSL does trust nothing
/// less.
pub fn has_root(pem: &str) -> bool {
    links(pem).iter().any(|link| link.issuer == link.subject)
}

/// The CA certificates in the PEM that have signed no other certificate in it: those that sign the
/// certificates of nodes, without the CAs above them. To decide whether a peer is a node, trust
/// only these: a root may have signed many other CAs.
pub fn signing(pem: &str) -> String {
    let all = links(pem);
    let is_above = |link: &Link| {
        all.iter()
            .any(|other| other.subject != link.subject && signed_by(&other.text, &link.text))
    };
    all.iter()
        .filter(|link| !is_above(link))
        .map(|link| link.text.as_str())
        .collect()
}

/// The certificates that a server sends after its own, so that clients that trust only the root can
/// build the chain.
pub fn intermediates(authority: &str) -> String {
    links(authority)
        .into_iter()
        .filter(|link| link.issuer != link.subject)
        .map(|link| link.text)
        .collect()
}

/// True when `pem` has every certificate of `other`.
pub fn holds(pem: &str, other: &str) -> bool {
    without(other, pem).is_empty()
}

/// True when the first certificates of both are the same.
pub fn is_same(pem: &str, other: &str) -> bool {
    first(pem).is_some_and(|one| Some(one) == first(other))
}

/// The first certificate in the PEM.
pub fn first(pem: &str) -> Option<String> {
    links(pem).into_iter().next().map(|link| link.text)
}

/// The certificates in `pem` that are not in `other`.
pub fn without(pem: &str, other: &str) -> String {
    let other: BTreeSet<String> = links(other).into_iter().map(|link| link.text).collect();
    links(pem)
        .into_iter()
        .filter(|link| !other.contains(&link.text))
        .map(|link| link.text)
        .collect()
}

/// A short identifier of a certificate.
pub fn fingerprint(pem: &str) -> String {
    use sha2::{Digest, Sha256};
    crate::kubernetes::names::hex(
        &Sha256::digest(first(pem).unwrap_or_else(|| pem.to_owned()))[..6],
    )
}

/// Reads the expiry time and the hosts of a certificate.
pub fn facts(pem: &str) -> Result<Facts, CertificateError> {
    let bad = |why: String| CertificateError::Certificate(why);
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let certificate = block.parse_x509().map_err(|error| bad(error.to_string()))?;
    let seconds = certificate.validity().not_after.timestamp();
    let mut hosts = Vec::new();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        hosts.extend(
            names
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(host) => Some((*host).to_owned()),
                    _ => None,
                }),
        );
    }
    Ok(Facts {
        not_after: Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX),
        hosts,
    })
}

/// True when the CA `authority_pem` signed the certificate.
pub fn signed_by(pem: &str, authority_pem: &str) -> bool {
    let (Ok((_, leaf)), Ok((_, authority))) = (
        parse_x509_pem(pem.as_bytes()),
        parse_x509_pem(authority_pem.as_bytes()),
    ) else {
        return false;
    };
    let (Ok(leaf), Ok(authority)) = (leaf.parse_x509(), authority.parse_x509()) else {
        return false;
    };
    leaf.issuer() == authority.subject()
        && leaf.verify_signature(Some(authority.public_key())).is_ok()
}

/// Checks that the PEM has CA certificates and nothing else.
pub fn check_trusted(pem: &str) -> Result<(), CertificateError> {
    let mut found = false;
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|error| CertificateError::Certificate(error.to_string()))?;
        let certificate = block
            .parse_x509()
            .map_err(|error| CertificateError::Certificate(error.to_string()))?;
        if !certificate.is_ca() {
            return Err(CertificateError::NotAuthority);
        }
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err(CertificateError::Certificate("no PEM in it".into()))
    }
}

/// Checks that the certificate and key from a user are those of a CA that can sign.
pub fn check_authority(authority: &KeyedCertificate) -> Result<(), CertificateError> {
    let (_, block) = parse_x509_pem(authority.certificate.as_bytes())
        .map_err(|error| CertificateError::Certificate(error.to_string()))?;
    let certificate = block
        .parse_x509()
        .map_err(|error| CertificateError::Certificate(error.to_string()))?;
    if !certificate.is_ca() {
        return Err(CertificateError::NotAuthority);
    }
    let mut seen = BTreeSet::new();
    for part in certificate.subject().iter() {
        if part.iter().count() > 1 {
            return Err(CertificateError::Subject("several attributes in one part"));
        }
        if !part
            .iter()
            .all(|attribute| seen.insert(attribute.attr_type().to_id_string()))
        {
            return Err(CertificateError::Subject("an attribute more than once"));
        }
    }
    let key = key_pair(authority).map_err(|error| match error {
        CertificateError::Lost => CertificateError::Key("it is empty".into()),
        other => other,
    })?;
    let subject_key = certificate.public_key().subject_public_key.data.as_ref();
    if key.public_key_raw() != subject_key {
        return Err(CertificateError::KeyMismatch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use std::sync::Arc;
    use std::time::Duration;

    /// Files from openssl: a root with a key in PKCS#1, and a CA below it with a key in SEC1 that
    /// follows its parameters.
    const ROOT: (&str, &str) = (
        include_str!("../tests/certificates/root.crt"),
        include_str!("../tests/certificates/root.key"),
    );
    const INTERMEDIATE: (&str, &str) = (
        include_str!("../tests/certificates/intermediate.crt"),
        include_str!("../tests/certificates/intermediate.key"),
    );
    const TWICE: (&str, &str) = (
        include_str!("../tests/certificates/twice.crt"),
        include_str!("../tests/certificates/twice.key"),
    );
    const NOW: &str = "2027-01-01T00:00:00Z";

    fn keyed((certificate, key): (&str, &str)) -> KeyedCertificate {
        KeyedCertificate {
            certificate: certificate.into(),
            key: key.into(),
        }
    }

    fn node(authority: &KeyedCertificate) -> String {
        let hosts = ["a.b.svc".to_owned()];
        issue(
            authority,
            Some(ORGANIZATION),
            NODE_NAME,
            &Purpose::Node { hosts: &hosts },
            NOW.parse().unwrap(),
            30,
        )
        .unwrap()
        .certificate
    }

    /// Whether a client trusts what a node sends, by OpenSSL's rules: only the roots of the bundle
    /// are trust anchors.
    fn is_believed(sent: &str, bundle: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for link in links(bundle)
            .iter()
            .filter(|link| link.issuer == link.subject)
        {
            roots
                .add(CertificateDer::from_pem_slice(link.text.as_bytes()).unwrap())
                .unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Ok(verifier) =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()
        else {
            return false;
        };
        let sent: Vec<_> = CertificateDer::pem_slice_iter(sent.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(
            NOW.parse::<Timestamp>().unwrap().as_second().unsigned_abs(),
        ));
        verifier
            .verify_server_cert(
                &sent[0],
                &sent[1..],
                &ServerName::try_from("a.b.svc").unwrap(),
                &[],
                now,
            )
            .is_ok()
    }

    #[test]
    fn keys_in_pkcs_1_and_sec_1_sign_like_those_in_pkcs_8() {
        for given in [ROOT, INTERMEDIATE] {
            let authority = keyed(given);
            check_authority(&authority).unwrap();
            assert!(signed_by(&node(&authority), &authority.certificate));
        }
        let refused = |certificate: &str, key: &str| {
            let authority = KeyedCertificate {
                certificate: certificate.into(),
                key: key.into(),
            };
            check_authority(&authority).unwrap_err().to_string()
        };
        assert_eq!(
            refused(ROOT.0, "none"),
            "the private key cannot be read: there is no PEM of a private key in it"
        );
        let encrypted = ROOT
            .1
            .replacen("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\n", 1);
        assert!(refused(ROOT.0, &encrypted).contains("without a passphrase"));
        assert!(
            refused(ROOT.0, INTERMEDIATE.1).contains("of no kind that can be used"),
            "another key than the certificate's"
        );
        assert!(
            refused(TWICE.0, TWICE.1).contains("an attribute more than once"),
            "the issuer's name would be another"
        );
        assert_eq!(
            refused(ROOT.0, ""),
            "the private key cannot be read: it is empty"
        );
        let lost = KeyedCertificate {
            certificate: ROOT.0.into(),
            key: String::new(),
        };
        assert!(matches!(
            issue(&lost, None, "u", &Purpose::Client, NOW.parse().unwrap(), 1),
            Err(CertificateError::Lost)
        ));
    }

    #[test]
    fn what_nodes_send_and_clients_are_told_leads_up_to_the_root_and_nodes_trust_what_signs_alone()
    {
        let foreign = new_authority("foreign", NOW.parse().unwrap())
            .unwrap()
            .certificate;
        // The form of cert-manager: the CA in tls.crt, the root in ca.crt.
        let whole = chain(INTERMEDIATE.0, &format!("{foreign}{}", ROOT.0));
        assert_eq!(
            whole,
            format!("{}{}", INTERMEDIATE.0, ROOT.0),
            "and nothing that is not above it"
        );
        assert_eq!(
            chain(&format!("{}{}", INTERMEDIATE.0, ROOT.0), ""),
            whole,
            "or all in tls.crt"
        );
        assert!(has_root(&whole) && !has_root(INTERMEDIATE.0));
        let authority = KeyedCertificate {
            certificate: whole.clone(),
            key: INTERMEDIATE.1.into(),
        };
        let leaf = node(&authority);
        assert!(!is_believed(&leaf, &whole), "without the one between");
        assert!(is_believed(
            &format!("{leaf}{}", intermediates(&whole)),
            &whole
        ));
        assert_eq!(
            signing(&whole),
            INTERMEDIATE.0,
            "who has a certificate of the root's is no node"
        );
        let own = new_authority("own", NOW.parse().unwrap()).unwrap();
        assert_eq!(
            (intermediates(&own.certificate), signing(&own.certificate)),
            (String::new(), own.certificate.clone())
        );
        assert_eq!(
            signing(&format!("{}{foreign}", own.certificate)),
            format!("{}{foreign}", own.certificate),
            "each for itself"
        );
        assert!(is_believed(&node(&own), &own.certificate));
    }

    #[test]
    fn certificates_are_told_apart_by_themselves_not_by_the_text_around_them() {
        let noted = format!("a note\n{}\n\n", INTERMEDIATE.0.trim_end());
        assert!(
            is_same(&noted, INTERMEDIATE.0) && !is_same(ROOT.0, INTERMEDIATE.0) && !is_same("", "")
        );
        assert_eq!(fingerprint(&noted), fingerprint(INTERMEDIATE.0));
        let both = format!("{noted}{}", ROOT.0);
        assert!(holds(&both, ROOT.0) && !holds(ROOT.0, &both));
        assert_eq!(without(&both, ROOT.0), INTERMEDIATE.0);
    }

    #[test]
    fn what_an_authority_issues_is_known_as_its_own_and_carries_hosts_and_end() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let authority = new_authority("test", now).unwrap();
        let other = new_authority("test", now).unwrap();
        check_authority(&authority).unwrap();
        check_trusted(&format!("{}{}", authority.certificate, other.certificate)).unwrap();
        assert!(check_trusted("").is_err());
        let hosts = ["a.b.svc".to_owned()];
        let node = issue(
            &authority,
            Some(ORGANIZATION),
            NODE_NAME,
            &Purpose::Node { hosts: &hosts },
            now,
            30,
        )
        .unwrap();
        assert!(signed_by(&node.certificate, &authority.certificate));
        assert!(!signed_by(&node.certificate, &other.certificate));
        let found = facts(&node.certificate).unwrap();
        assert_eq!(
            found,
            Facts {
                not_after: "2026-01-31T00:00:00Z".parse().unwrap(),
                hosts: hosts.to_vec()
            }
        );
        assert!(matches!(
            check_authority(&node),
            Err(CertificateError::NotAuthority)
        ));
        assert!(matches!(
            check_trusted(&node.certificate),
            Err(CertificateError::NotAuthority)
        ));
        let mixed = KeyedCertificate {
            certificate: authority.certificate,
            key: other.key,
        };
        assert!(matches!(
            check_authority(&mixed),
            Err(CertificateError::KeyMismatch)
        ));
    }
}
