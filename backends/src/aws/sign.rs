//! Signature Version 4 ("Create a signed AWS API request", IAM User Guide), for requests without a stream as their body.
//!
//! A few lines of our own, since the crate that does it brings the runtime of the whole SDK. The tests let botocore check every request.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::credentials::{Credentials, Keys};
use crate::wire::hex;
use crate::wire::http::{Request, Sign, encode};
use crate::{BackendError, Secret};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Signs for one service in one region.
pub(super) struct Signer {
    pub(super) credentials: Arc<Credentials>,
    pub(super) region: String,
    pub(super) service: &'static str,
}

#[async_trait]
impl Sign for Signer {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        let keys = self.credentials.keys().await?;
        now(request, &keys, &self.region, self.service);
        Ok(())
    }

    async fn renew(&self) -> Result<(), BackendError> {
        self.credentials.renew().await
    }
}

/// Signs `request` with these keys at this moment.
pub(super) fn now(request: &mut Request, keys: &Keys, region: &str, service: &str) {
    sign(request, keys, region, service, Timestamp::now());
}

fn sign(request: &mut Request, keys: &Keys, region: &str, service: &str, at: Timestamp) {
    let scope = Scope::new(region, service, at);
    request.set_header("x-amz-date", scope.time.clone());
    if let Some(token) = &keys.token {
        request.set_header("x-amz-security-token", token.clone());
    }
    let (canonical, signed) = canonical(request);
    let signature = scope.signature(keys, &canonical);
    let proof = format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", keys.id);
    request.set_header("authorization", Secret::new(proof));
}

/// A request as an address that whoever has it may ask for an hour long ("Query string parameters" in the same chapter).
pub(super) fn address(mut request: Request, keys: &Keys, region: &str, service: &str) -> Secret {
    let scope = Scope::new(region, service, Timestamp::now());
    request = request
        .query("X-Amz-Algorithm", ALGORITHM)
        .query("X-Amz-Credential", format!("{}/{scope}", keys.id))
        .query("X-Amz-Date", scope.time.clone())
        .query("X-Amz-Expires", "3600")
        .query("X-Amz-SignedHeaders", "host");
    if let Some(token) = &keys.token {
        request = request.query("X-Amz-Security-Token", token.clone());
    }
    let signature = scope.signature(keys, &canonical(&request).0);
    let pairs = request.query.iter().map(|(name, value)| format!("{}={}&", encode(name), encode(value.reveal())));
    let pairs: String = pairs.collect();
    Secret::new(format!("{}?{pairs}X-Amz-Signature={signature}", request.place()))
}

/// What a signature is good for.
struct Scope {
    time: String,
    region: String,
    service: String,
}

impl Scope {
    fn new(region: &str, service: &str, at: Timestamp) -> Self {
        let time = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        Self { time, region: region.to_owned(), service: service.to_owned() }
    }

    fn parts(&self) -> [&str; 4] {
        [self.time.get(..8).unwrap_or_default(), &self.region, &self.service, "aws4_request"]
    }

    fn signature(&self, keys: &Keys, canonical: &str) -> String {
        let hash = hex(&Sha256::digest(canonical.as_bytes()));
        let text = format!("{ALGORITHM}\n{}\n{self}\n{hash}", self.time);
        let first = format!("AWS4{}", keys.secret.reveal());
        let key = self.parts().iter().fold(first.into_bytes(), |key, part| mac(&key, part));
        hex(&mac(&key, &text))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().join("/"))
    }
}

/// The canonical request, and the names of the headers that are signed.
fn canonical(request: &Request) -> (String, String) {
    let mut query: Vec<_> = request.query.iter().map(|(name, value)| (encode(name), encode(value.reveal()))).collect();
    query.sort();
    let query: Vec<_> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers: Vec<_> =
        request.headers.iter().map(|(name, value)| (*name, value.reveal().trim().to_owned())).collect();
    headers.retain(|(name, _)| *name != "authorization");
    headers.push(("host", request.host().to_owned()));
    headers.sort();
    let signed: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let signed = signed.join(";");
    let headers = headers.iter().fold(String::new(), |text, (name, value)| text + name + ":" + value + "\n");
    let body = request.body.as_ref().map_or("", |body| body.reveal());
    let method = request.method.name();
    // The path is encoded twice, for all services but S3.
    let path = encode(&request.encoded_path()).replace("%2F", "/");
    let hash = hex(&Sha256::digest(body.as_bytes()));
    (format!("{method}\n{path}\n{}\n{headers}\n{signed}\n{hash}", query.join("&")), signed)
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::Method;

    fn keys() -> Keys {
        Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            token: None,
            until: None,
            from: "a test".to_owned(),
        }
    }

    fn signature(mut request: Request) -> String {
        sign(&mut request, &keys(), "us-east-1", "service", "2015-08-30T12:36:00Z".parse().unwrap());
        let proof = request.headers.iter().find(|(name, _)| *name == "authorization").unwrap().1.reveal().to_owned();
        proof.split("Signature=").nth(1).unwrap().to_owned()
    }

    /// `get-vanilla`, `post-vanilla` and `get-vanilla-query-order-key-case` of AWS's Signature Version 4 test suite.
    #[test]
    fn signatures_are_those_of_the_test_suite() {
        let get = || Request::new("test", Method::Get, "https://example.amazonaws.com", "/");
        assert_eq!(signature(get()), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        let query = get().query("Param2", "value2").query("Param1", "value1");
        assert_eq!(signature(query), "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
        let post = Request::new("test", Method::Post, "https://example.amazonaws.com", "/");
        assert_eq!(signature(post), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    }
}
