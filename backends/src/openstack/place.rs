//! Where a service is: what of its address comes before the paths of its API.

use crate::BackendError;

/// An address in two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// The beginning of every path, without a slash at its end.
    base: String,
}

impl Place {
    /// Reads an address of the catalog or of the settings.
    pub(super) fn of(url: &str) -> Result<Self, BackendError> {
        let refuse = |why: &str| Err(BackendError::caller("read the address of a service", shown(url), why));
        let Some((scheme, rest)) = url.trim().split_once("://") else { return refuse("it is no http:// or https://") };
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        if !matches!(scheme, "http" | "https") || host.is_empty() {
            return refuse("it is no http:// or https:// with a host");
        }
        // What stands before an @ is a password, and what follows a ? or # is no path.
        if host.contains('@') || path.contains(['?', '#']) {
            return refuse("it holds more than scheme, host, port and path");
        }
        let base = path.trim_matches('/');
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        Ok(Self { origin: format!("{scheme}://{host}"), base })
    }

    /// The same with this version at its end, in place of one of `others`.
    pub(super) fn with_version(self, version: &str, others: &[&str]) -> Self {
        let bare = others.iter().find_map(|other| self.base.strip_suffix(other)).unwrap_or(&self.base);
        Self { base: format!("{bare}{version}"), ..self }
    }

    /// A path of the API.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// All of it, for eyes.
    pub(super) fn url(&self) -> String {
        format!("{}{}", self.origin, self.base)
    }
}

/// An address without what may be a password in it.
fn shown(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_origin_and_base() {
        for (url, version, path) in [
            ("http://k:5000", "http://k:5000", "/v3/x"),
            ("http://k:5000/", "http://k:5000", "/v3/x"),
            ("https://c/identity/v3/", "https://c", "/identity/v3/x"),
            ("https://c/identity/v2.0", "https://c", "/identity/v3/x"),
        ] {
            let place = Place::of(url).unwrap().with_version("/v3", &["/v3", "/v2.0"]);
            assert_eq!((place.origin.as_str(), place.path("/x").as_str()), (version, path), "{url}");
        }
        for bad in ["", "k:5000", "ftp://k", "http://", "http://u:hunter2@k/", "http://k/?x"] {
            let error = Place::of(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
