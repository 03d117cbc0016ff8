//! The authority: it is created once, issues, renews, and signs requests whose keys it never sees.

use std::path::Path;

use rand::Rng;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateSigningRequestParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PKCS_ED25519;
use rcgen::PublicKeyData;
use rcgen::SanType;
use rcgen::SerialNumber;
use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::Duration;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::certs::CertsError;
use crate::certs::store;
use crate::certs::subject::Subject;
use crate::certs::verify;
use crate::env::Env;
use crate::limits;
use crate::net::identity::Identity;
use crate::types::ClusterName;
use crate::types::Invalid;

/// File name of the authority's certificate, which every node and client needs.
pub const CA_CERT: &str = "ca.crt";
/// File name of the authority's key, which never leaves its folder.
pub const CA_KEY: &str = "ca.key";
/// How far before now a certificate begins, for hosts whose clocks are behind.
const CLOCK_SLACK: Duration = Duration::hours(1);

/// A certificate and, if it was made here, its key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

/// A certificate request for an outside authority, and its key, which stays here.
#[derive(Debug)]
pub struct Requested {
    /// The request (PKCS #10).
    pub csr_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

/// A certificate authority of one cluster.
#[derive(Debug)]
pub struct Authority {
    cert_pem: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in memory, valid for so many days from now.
    ///
    /// # Errors
    /// When the days are out of bounds.
    pub fn create(env: &Env, cluster: &ClusterName, days: u32) -> Result<Self, CertsError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = authority_params(&format!("dynamomini {cluster} authority"));
        stamp(&mut params, env, days, None)?;
        let cert_pem = params.self_signed(&key)?.pem();
        let not_after = params.not_after;
        Ok(Self { cert_pem, not_after, issuer: Issuer::new(params, key) })
    }

    /// Takes an authority from its two PEM texts. The paths are for error texts.
    ///
    /// # Errors
    /// When a text is damaged, the certificate is no authority's, or the key is not its own.
    pub fn from_pem(cert: (&Path, String), key: (&Path, &str)) -> Result<Self, CertsError> {
        let pair = KeyPair::from_pem(key.1).map_err(|error| {
            let fix = "restore it from a backup; `openssl pkcs8 -topk8 -nocrypt` converts other forms to PKCS #8";
            CertsError::file(key.0, format!("is not a private key in PKCS #8 PEM form ({error})"), fix)
        })?;
        let der = read_pem(cert.0, cert.1.as_bytes())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| {
            CertsError::file(cert.0, format!("cannot be read: {error}"), "restore it from a backup")
        })?;
        if !parsed.is_ca() {
            return Err(CertsError::file(cert.0, "is not an authority's certificate", "name the folder of ca.crt"));
        }
        if parsed.public_key().raw != pair.subject_public_key_info() {
            let what = format!("does not belong to the certificate in {}", cert.0.display());
            return Err(CertsError::file(key.0, what, "restore both from the same backup"));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        Ok(Self { issuer: Issuer::from_ca_cert_der(&der, pair)?, cert_pem: cert.1, not_after })
    }

    /// Loads the authority of a folder: `ca.crt` and `ca.key`.
    ///
    /// # Errors
    /// When there is none, its key can be read by others, or it is damaged.
    pub fn load(dir: &Path) -> Result<Self, CertsError> {
        let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
        if !cert.exists() && !key.exists() {
            let fix = format!("run `dynamomini certs init --dir {}`, or name its folder with --dir", dir.display());
            return Err(CertsError::file(dir, "holds no authority (ca.crt, ca.key)", fix));
        }
        let (cert_pem, key_pem) = (store::read(&cert)?, store::read_private(&key)?);
        Self::from_pem((&cert, cert_pem), (&key, &key_pem))
    }

    /// Writes `ca.crt` and `ca.key` into a folder.
    ///
    /// # Errors
    /// When they exist and `force` is not given, or cannot be written.
    pub fn save(&self, dir: &Path, force: bool) -> Result<(), CertsError> {
        let key_pem = self.issuer.key().serialize_pem();
        store::write_pair((&dir.join(CA_CERT), &self.cert_pem), (&dir.join(CA_KEY), &key_pem), force)
    }

    /// The authority's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Makes a key and a certificate, valid for so many days from now, but not longer than the authority.
    ///
    /// # Errors
    /// When the days are out of bounds or the authority has expired.
    pub fn issue(&self, env: &Env, subject: &Subject, days: u32) -> Result<Issued, CertsError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let cert_pem = self.sign(env, subject, &key, days)?;
        Ok(Issued { cert_pem, key_pem: key.serialize_pem() })
    }

    /// Issues a certificate with the identity, names and key of an existing one of this authority, and new dates.
    ///
    /// # Errors
    /// When the certificate cannot be read or was not issued by this authority.
    pub fn renew(&self, env: &Env, path: &Path, cert_pem: &str, days: u32) -> Result<String, CertsError> {
        let der = read_pem(path, cert_pem.as_bytes())?;
        let (_, old) = X509Certificate::from_der(&der)
            .map_err(|error| CertsError::file(path, format!("cannot be read: {error}"), "issue a new one"))?;
        if old.is_ca() {
            return self.renew_self(env, path, &old, days);
        }
        let root = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).map_err(|error| {
            CertsError::refused(format!("the authority's certificate cannot be read: {error}"), "restore it")
        })?;
        if !verify::is_signed_by(&der, &root) {
            let fix = "renew it where it was issued, or name that authority's folder with --dir";
            return Err(CertsError::file(path, "was not issued by this authority", fix));
        }
        let names = old.subject_alternative_name().ok().flatten();
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let subject = Subject::from_sans(&sans(path, names)?)?;
        let key = SubjectPublicKeyInfo::from_der(old.public_key().raw)?;
        self.sign(env, &subject, &key, days)
    }

    /// Gives the authority's own certificate new dates; all that it has signed stays valid.
    fn renew_self(&self, env: &Env, path: &Path, old: &X509Certificate<'_>, days: u32) -> Result<String, CertsError> {
        let key = self.issuer.key();
        if old.public_key().raw != key.subject_public_key_info() {
            let fix = "name the folder that holds its ca.key with --dir";
            return Err(CertsError::file(path, "is another authority's certificate", fix));
        }
        let name = old.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or("authority");
        let mut params = authority_params(name);
        stamp(&mut params, env, days, None)?;
        Ok(params.self_signed(key)?.pem())
    }

    /// Signs a request made elsewhere. Only its key and its names are taken; what it says of usages is not.
    ///
    /// # Errors
    /// When the request is damaged, is not signed by its own key, or does not name exactly one role.
    pub fn sign_request(
        &self,
        env: &Env,
        path: &Path,
        csr_pem: &str,
        days: u32,
    ) -> Result<(Identity, String), CertsError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            CertsError::file(path, format!("is not a usable certificate request ({error})"), "make it anew")
        })?;
        let subject = Subject::from_sans(&request.params.subject_alt_names)?;
        if let Identity::Client { grants, name } = subject.identity()
            && grants.is_empty()
        {
            return Err(CertsError::file(path, format!("client {name} asks for no grant"), "make it with --grant"));
        }
        let cert_pem = self.sign(env, &subject, &request.public_key, days)?;
        Ok((subject.identity().clone(), cert_pem))
    }

    fn sign(&self, env: &Env, subject: &Subject, key: &impl PublicKeyData, days: u32) -> Result<String, CertsError> {
        let mut params = subject.params()?;
        params.use_authority_key_identifier_extension = true;
        stamp(&mut params, env, days, Some(self.not_after))?;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// Makes a key and a request for an outside authority to sign.
///
/// # Errors
/// When the subject's names cannot be written into it.
pub fn request(subject: &Subject) -> Result<Requested, CertsError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let csr_pem = subject.params()?.serialize_request(&key)?.pem()?;
    Ok(Requested { csr_pem, key_pem: key.serialize_pem() })
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Sets dates and a random serial number.
fn stamp(
    params: &mut CertificateParams,
    env: &Env,
    days: u32,
    latest: Option<OffsetDateTime>,
) -> Result<(), CertsError> {
    if days == 0 || days > limits::CERTIFICATE_DAYS_MAX {
        let allowed = format!("1 to {} days", limits::CERTIFICATE_DAYS_MAX);
        return Err(Invalid::new("validity", days.to_string(), allowed).into());
    }
    let seconds = i64::try_from(env.wall_ms() / 1000).unwrap_or(i64::MAX);
    let now = OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|error| CertsError::refused(format!("the clock is out of range: {error}"), "set the clock"))?;
    let end = now + Duration::days(i64::from(days));
    if latest.is_some_and(|latest| latest <= now) {
        let fix = "renew it: `dynamomini certs renew DIR/ca.crt`, and give ca.crt to all nodes and clients";
        return Err(CertsError::refused("the authority's own certificate has expired", fix));
    }
    params.not_before = now - CLOCK_SLACK;
    params.not_after = latest.map_or(end, |latest| latest.min(end));
    let mut serial = [0u8; 16];
    env.rng("certificate serial").fill_bytes(&mut serial);
    // Positive, and of full length, as X.509 wants it.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn read_pem(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, CertsError> {
    CertificateDer::from_pem_slice(pem)
        .map_err(|error| CertsError::file(path, format!("holds no PEM certificate ({error})"), "name a certificate"))
}

fn sans(path: &Path, names: &[GeneralName<'_>]) -> Result<Vec<SanType>, CertsError> {
    let mut sans = Vec::new();
    for name in names {
        sans.push(match name {
            GeneralName::URI(uri) => SanType::URI((*uri).try_into()?),
            GeneralName::DNSName(name) => SanType::DnsName((*name).try_into()?),
            GeneralName::IPAddress(octets) => {
                let v4 = <[u8; 4]>::try_from(*octets).map(std::net::IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(std::net::IpAddr::from));
                SanType::IpAddress(
                    address.map_err(|_| CertsError::file(path, "holds a malformed IP name", "issue it anew"))?,
                )
            }
            other => {
                let what = format!("holds a name of a kind that is not used here: {other:?}");
                return Err(CertsError::file(path, what, "issue a new certificate"));
            }
        });
    }
    Ok(sans)
}
