//! The signature by which a service account proves itself: a JSON Web Token, signed by RSA with SHA-256 (RFC 7515, RFC 7518 section 3.3).
//!
//! The key is PKCS #8 or PKCS #1 in PEM (RFC 7468), as Google gives it out. The signature is ring's, which rustls has its own from.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::Secret;

/// A token with these claims. The error repeats nothing of the key.
pub(super) fn signed(key: &Secret, key_id: &str, claims: &Value) -> Result<Secret, &'static str> {
    let pair = pair(key.reveal())?;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({ "alg": "RS256", "typ": "JWT", "kid": key_id }));
    let message = format!("{head}.{}", part(claims));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .map_err(|_| "a key that cannot sign")?;
    Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

/// The key itself.
fn pair(pem: &str) -> Result<RsaKeyPair, &'static str> {
    let (_, rest) = pem.split_once("-----BEGIN ").ok_or("no key in PEM")?;
    let (kind, rest) = rest.split_once("-----").ok_or("no key in PEM")?;
    let (body, _) = rest.split_once("-----END ").ok_or("a key in PEM without an end")?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| "a key in PEM that is no Base64")?);
    let read = match kind {
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
        _ => return Err("another thing than an unencrypted private key in PEM"),
    };
    read.map_err(|_| "no RSA key of 2048 bits or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        for bad in [
            "",
            "hunter2",
            "-----BEGIN PRIVATE KEY-----\nhunter2",
            "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\naHVudGVyMg==\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n-----END ENCRYPTED PRIVATE KEY-----",
        ] {
            let why = signed(&Secret::new(bad.to_owned()), "k", &json!({})).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
