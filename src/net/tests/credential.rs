//! Credentials: believed with any kind of certificate key, and only as what they are.

use std::process::Command;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::SanType;

use super::*;
use crate::net::Credential;
use crate::net::CredentialError;
use crate::net::RecordSigner;
use crate::types::ClusterName;

const NOW_MS: u64 = 1_800_000_000_000;

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn check(credential: &Credential, by: &TlsMaterial) -> Result<crate::net::Vouched, CredentialError> {
    credential.check(&cluster("a"), by, &ring_provider(), NOW_MS)
}

#[test]
fn a_node_vouches_for_what_it_signs() {
    let material = material(NODE);
    let signer = RecordSigner::new(&material, &cluster("a")).unwrap();
    let vouched = check(signer.credential(), &material).unwrap();
    assert_eq!(vouched.certificate, *material.certificate());
    let signature = signer.sign(b"record");
    assert_eq!(signature.len(), 64);
    assert!(vouched.signed(b"record", &signature) && !vouched.signed(b"another", &signature));
    let again = RecordSigner::new(&material, &cluster("a")).unwrap();
    assert_eq!(again.public_key(), signer.public_key(), "the key is the certificate's, not the process's");
}

#[test]
fn a_credential_of_another_cluster_authority_or_role_is_not_believed() {
    let material = material(NODE);
    let other = RecordSigner::new(&material, &cluster("b")).unwrap();
    assert!(matches!(check(other.credential(), &material), Err(CredentialError::Unproven(_))));

    let foreign = Authority::new("somebody else");
    let foreign = load(&foreign.issue(&[NODE]), &foreign.root).unwrap();
    let signer = RecordSigner::new(&foreign, &cluster("a")).unwrap();
    assert!(matches!(check(signer.credential(), &material), Err(CredentialError::Untrusted(..))));

    let client = RecordSigner::new(&self::material(CLIENT), &cluster("a")).unwrap();
    assert!(matches!(check(client.credential(), &material), Err(CredentialError::NotANode(_))));
}

#[test]
fn an_expired_certificate_vouches_for_nothing() {
    let issued = authority().issue_with(&[NODE], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let material = load(&issued, &authority().root).unwrap();
    let signer = RecordSigner::new(&material, &cluster("a")).unwrap();
    assert!(matches!(check(signer.credential(), &material), Err(CredentialError::Untrusted(..))));
}

#[test]
fn damage_anywhere_in_a_credential_is_noticed() {
    let material = material(NODE);
    let signer = RecordSigner::new(&material, &cluster("a")).unwrap();
    let whole = postcard::to_stdvec(signer.credential()).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        if let Ok(credential) = postcard::from_bytes::<Credential>(&damaged) {
            assert!(check(&credential, &material).is_err(), "damage at {at} went unnoticed");
        }
    }
}

/// The material of a node whose certificate has a key of another kind.
fn with_key(key: &KeyPair) -> TlsMaterial {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(params, root_key);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(NODE.try_into().unwrap())];
    let issued = Issued { chain: params.signed_by(key, &issuer).unwrap().pem(), key: key.serialize_pem() };
    load(&issued, &root).unwrap()
}

#[test]
fn certificates_with_ecdsa_keys_vouch_too() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let material = with_key(&KeyPair::generate_for(algorithm).unwrap());
        let signer = RecordSigner::new(&material, &cluster("a")).unwrap();
        assert!(check(signer.credential(), &material).is_ok());
    }
}

#[test]
fn certificates_with_rsa_keys_vouch_too() {
    let made =
        Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output();
    let made = made.expect("openssl is needed, as for the tests of `certs`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = KeyPair::from_pem(&String::from_utf8(made.stdout).unwrap()).unwrap();
    let material = with_key(&key);
    let signer = RecordSigner::new(&material, &cluster("a")).unwrap();
    assert!(check(signer.credential(), &material).is_ok());
    assert_eq!(signer.sign(b"record").len(), 64, "what fits a datagram does not depend on the certificate's key");
}
