//! Which certificate of a server is taken: one that the system's roots vouch for, or exactly one.
//!
//! Hypervisors sign their certificates themselves. What can be said of such a one is that it is the one that somebody has
//! compared: its SHA-256, as it is sent (DER). With a pin nothing else of a certificate counts, neither name nor dates nor who
//! signed it. That the server has the key to it is proved by the signature of the handshake in any case (RFC 8446, 4.4.3).
//!
//! Whatever is met is remembered, so that a refusal can name the certificate and a manifest the one that was taken.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::wire::hex;
use crate::{BackendError, Kind};

/// SHA-256 of a certificate in its DER form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    /// 64 hexadecimal digits, in any case, as they are or with a colon after each pair, as `openssl x509 -fingerprint` prints them.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is no SHA-256: expected 64 hexadecimal digits, or 32 pairs with colons between");
        let pairs: Vec<&str> = if text.contains(':') {
            text.split(':').collect()
        } else {
            (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or_default()).collect()
        };
        let byte = |pair: &str| {
            let plain = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16).ok().filter(|_| plain)
        };
        let bytes: Option<Vec<u8>> = pairs.into_iter().map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(refuse)
    }
}

/// A certificate that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub certificate: Fingerprint,
    /// Why.
    pub why: String,
}

/// What certificates were met.
#[derive(Debug, Default)]
struct Met {
    taken: Option<Fingerprint>,
    refused: Option<Refusal>,
}

/// See the module. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Verifier>);

impl Trust {
    /// Takes the certificate `pin` and no other; without one what the system's roots vouch for.
    ///
    /// # Errors
    /// `Io` if the system's roots cannot be read.
    pub fn new(pin: Option<Fingerprint>) -> Result<Self, BackendError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match pin {
            Some(_) => None,
            None => Some(Arc::new(
                rustls_platform_verifier::Verifier::new(Arc::clone(&provider)).map_err(|error| failed(&error))?,
            ) as _),
        };
        Ok(Self(Arc::new(Verifier { pin, roots, provider, met: Mutex::default() })))
    }

    /// The certificate that was taken last.
    pub fn taken(&self) -> Option<Fingerprint> {
        self.0.met().taken
    }

    /// The one that was refused last, unless one was taken after it.
    pub fn refused(&self) -> Option<Refusal> {
        self.0.met().refused.clone()
    }

    /// The one that it takes, if it takes only one.
    pub fn pin(&self) -> Option<Fingerprint> {
        self.0.pin
    }

    /// TLS 1.2 and 1.3 with this trust, as the client wants it.
    pub(super) fn config(&self) -> Result<ClientConfig, BackendError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.0.provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| failed(&error))?;
        // Each certificate goes through `Verifier`, which never takes one unchecked.
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::clone(&self.0) as _).with_no_client_auth())
    }
}

fn failed(error: &Error) -> BackendError {
    BackendError::new(Kind::Io, "make an HTTP client", "TLS", error.to_string())
}

#[derive(Debug)]
struct Verifier {
    pin: Option<Fingerprint>,
    /// What the system trusts; none where a pin decides.
    roots: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
    met: Mutex<Met>,
}

impl Verifier {
    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a certificate that is not taken.
    fn refuse(&self, certificate: Fingerprint, error: Error) -> Error {
        let why = match &error {
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                self.pin.map_or_else(|| error.to_string(), |pin| format!("it is not the one that is pinned, {pin}"))
            }
            other => other.to_string(),
        };
        self.met().refused = Some(Refusal { certificate, why });
        error
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fingerprint::of(end_entity);
        let verified = match &self.roots {
            Some(roots) => roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None if self.pin == Some(found) => Ok(ServerCertVerified::assertion()),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        };
        let verified = verified.map_err(|error| self.refuse(found, error))?;
        *self.met() = Met { taken: Some(found), refused: None };
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_tools_print_it() {
        let plain = "0123456789abcdef".repeat(4);
        let pairs: Vec<_> = (0..64).step_by(2).map(|at| plain[at..at + 2].to_uppercase()).collect();
        let read: Fingerprint = pairs.join(":").parse().unwrap();
        assert_eq!((read.to_string(), Ok(read)), (plain.clone(), plain.parse()));
        let long = format!("{plain}00");
        for bad in ["", ":", "ab", &plain[1..], &long, &plain.replace('f', "g"), &plain.replace("ef", "+f"), "é"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pin_takes_one_certificate_and_remembers_what_it_refused() {
        let (good, bad) = (CertificateDer::from(b"one".to_vec()), CertificateDer::from(b"other".to_vec()));
        let trust = Trust::new(Some(Fingerprint::of(&good))).unwrap();
        let name = ServerName::try_from("esx1").unwrap();
        let shown = |certificate| trust.0.verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
        assert!(shown(&bad).is_err());
        let refused = trust.refused().unwrap();
        assert!(refused.certificate == Fingerprint::of(&bad) && refused.why.contains("pinned"), "{refused:?}");
        assert!(shown(&good).is_ok());
        assert_eq!((trust.taken(), trust.refused()), (trust.pin(), None));
    }
}
