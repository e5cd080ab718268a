//! Addresses that are given to impound, by the environment and by ARM itself: where they lead, and what of them is secret.
//!
//! A token is sent to ARM and to nobody else, so an address that ARM gives to ask again must be its own. A shared access signature (SAS)
//! is an address that is a secret: all behind its `?` is held as one. Nothing goes over a network in clear: `http://` is for
//! loopback only.

use percent_encoding::percent_decode_str;

use crate::wire::http::{Method, Request, Text};
pub(super) use crate::wire::http::{ip, origin};
use crate::{BackendError, Secret};

/// Longest address that is read, in bytes.
const LEN_MAX: usize = 16 << 10;

/// An address in its parts. Its query is held as secret.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// Decoded.
    path: String,
    /// Decoded.
    query: Vec<(String, Secret)>,
}

impl Address {
    /// Reads one. The error repeats nothing of it.
    pub(super) fn read(text: &str) -> Result<Self, &'static str> {
        if text.len() > LEN_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("an address with characters that none has, or far too long");
        }
        let (scheme, rest) = text.split_once("://").ok_or("no address")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let origin = origin(&format!("{scheme}://{authority}"))?;
        let decode = |part: &str| percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| "no UTF-8");
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, Secret::new(decode(value)?)))
        });
        Ok(Self { origin, path: format!("/{}", decode(path)?), query: pairs.collect::<Result<_, &str>>()? })
    }

    /// A request to it.
    pub(super) fn request(&self, purpose: &'static str, method: Method) -> Request {
        let mut request = Request::new(purpose, method, &self.origin, self.path.clone());
        self.put_on(&mut request);
        request
    }

    /// Sends a request there, whatever it was meant for; its own query stays.
    pub(super) fn put_on(&self, request: &mut Request) {
        request.origin.clone_from(&self.origin);
        request.path.clone_from(&self.path);
        let pairs = self.query.iter().map(|(name, value)| (name.clone(), Text::Secret(value.clone())));
        request.query.extend(pairs);
    }

    /// Is it the same to the last character?
    pub(super) fn is(&self, other: &Self) -> bool {
        let same = |(one, other): (&(String, Secret), &(String, Secret))| {
            one.0 == other.0 && one.1.reveal() == other.1.reveal()
        };
        self.origin == other.origin
            && self.path == other.path
            && self.query.len() == other.query.len()
            && self.query.iter().zip(&other.query).all(same)
    }
}

/// A path of ARM's: its parts are what names there are made of, and none climbs.
pub(super) fn check_id(id: &str) -> Result<(), BackendError> {
    let plain = |c: char| c.is_alphanumeric() || "-._()".contains(c);
    let good = |part: &str| !part.is_empty() && !part.chars().all(|c| c == '.') && part.chars().all(plain);
    let parts = id.strip_prefix('/').filter(|_| id.len() <= 1024).map(|rest| rest.split('/').all(good));
    if parts == Some(true) {
        return Ok(());
    }
    let found: String = id.chars().filter(|c| !c.is_control()).take(100).collect();
    Err(BackendError::corrupt("read what ARM says", "a resource's id", "the id", "/subscriptions/…", found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_put_together_as_it_was() {
        let text = "https://md-x.z1.blob.storage.azure.net/c/a%20b?sv=2021-12-02&sig=a%2Bb%2F%3D";
        let read = Address::read(text).unwrap();
        let request = read.request("read", Method::Get);
        assert_eq!(
            (request.origin.as_str(), request.path.as_str()),
            ("https://md-x.z1.blob.storage.azure.net", "/c/a b")
        );
        assert_eq!(request.query[1].1.reveal(), "a+b/=");
        assert!(!format!("{read:?} {request:?}").contains("a+b"));
        assert!(read.is(&Address::read(text).unwrap()) && !read.is(&Address::read(&text.replace("%2B", "c")).unwrap()));
    }

    #[test]
    fn nothing_goes_over_a_network_in_clear() {
        for good in ["https://management.azure.com", "http://127.0.0.1:80", "http://localhost:1", "http://[::1]:1/"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in [
            "http://management.azure.com",
            "http://127.0.0.1.elsewhere",
            "http://localhost@elsewhere",
            "https://a@b",
            "https://a/b",
            "ftp://127.0.0.1",
            "https://",
            "elsewhere",
            "http://[::1].elsewhere",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
        assert!(Address::read("http://elsewhere/a?sig=x").is_err());
        assert!(Address::read("https://a/b c").is_err());
    }

    #[test]
    fn an_id_does_not_climb() {
        check_id("/subscriptions/00-1/resourceGroups/a.b_(c)/providers/Microsoft.Compute/disks/d").unwrap();
        for bad in ["", "/", "a", "/a/../b", "/a//b", "/a?b", "/a/b#", "/a/%2e", "/a b"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
