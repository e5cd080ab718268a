//! What the environment says to the tools of Google's cloud: whose credentials, and where its services are.
//!
//! Names after "How Application Default Credentials works" and, for other addresses of the services, gcloud's properties
//! (`api_endpoint_overrides/compute` is `CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE`) and `STORAGE_EMULATOR_HOST` of the storage libraries.

use std::path::{Path, PathBuf};

use crate::BackendError;
use crate::cloud::Vars;
use crate::wire::http::{ip, origin};

/// Names that count, or begin so.
const OURS: &[&str] = &["GOOGLE_", "CLOUDSDK_", "GCE_METADATA_HOST", "STORAGE_EMULATOR_HOST", "HOME"];
/// The machine's own service, by the address that it always has.
const METADATA: &str = "169.254.169.254";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Settings(Vars);

/// Where a service is: scheme, host and port, and what stands before each path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) origin: String,
    pub(super) path: String,
}

impl Settings {
    /// From this process's environment.
    pub(super) fn load() -> Self {
        Self(Vars::load(|name| OURS.iter().any(|known| name.starts_with(known))))
    }

    /// A variable.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// Where a service is: as the first of these variables that is set says, or where it is for all.
    pub(super) fn base(&self, names: &[&str], otherwise: &str) -> Result<Base, BackendError> {
        let public = Base::read("the public address", otherwise)?;
        let Some((name, value)) = names.iter().find_map(|name| Some((*name, self.var(name)?))) else {
            return Ok(public);
        };
        let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        let found = Base::read(name, &value)?;
        // Some name the host alone, some also what stands before each path.
        Ok(if found.path.is_empty() { Base { path: public.path, ..found } } else { found })
    }

    /// The file with credentials that is meant, and whether somebody named it.
    pub(super) fn credentials(&self) -> Option<(PathBuf, bool)> {
        if let Some(named) = self.var("GOOGLE_APPLICATION_CREDENTIALS") {
            return Some((PathBuf::from(named), true));
        }
        let home = || self.var("HOME").map(|home| Path::new(home).join(".config/gcloud"));
        let folder = self.var("CLOUDSDK_CONFIG").map(PathBuf::from).or_else(home)?;
        let file = folder.join("application_default_credentials.json");
        file.exists().then_some((file, false))
    }

    /// The machine's own service: near, or refused, since it gives out tokens in clear.
    pub(super) fn metadata(&self) -> Result<String, BackendError> {
        let host = self.var("GCE_METADATA_HOST").unwrap_or(METADATA);
        let link_local = |ip| matches!(ip, std::net::IpAddr::V4(ip) if ip.is_link_local());
        let plain = host.bytes().all(|c| c.is_ascii_alphanumeric() || b":.-".contains(&c));
        let of_host = host == "metadata.google.internal" || ip(host).is_some_and(link_local);
        let address = format!("http://{host}");
        if plain && of_host || origin(&address).is_ok() {
            return Ok(address);
        }
        Err(BackendError::caller(
            "read the environment",
            "GCE_METADATA_HOST",
            "it is not near, and tokens come from there in clear",
        ))
    }
}

impl Base {
    /// An address in its parts: HTTPS, or this very machine, since a secret is sent there. `name` is where it stands.
    pub(super) fn read(name: &str, value: &str) -> Result<Self, BackendError> {
        let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let refuse = |why: &str| {
            BackendError::caller("read where a secret is to go", name, format!("it is {why}"))
                .advise(format!("let {name} be https://HOST"))
        };
        let path = path.trim_matches('/');
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/:@".contains(&byte)) || path.contains("..") {
            return Err(refuse("an address with a path that none has"));
        }
        let origin = origin(&format!("{scheme}://{authority}")).map_err(refuse)?;
        Ok(Self { origin, path: if path.is_empty() { String::new() } else { format!("/{path}") } })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Settings of a test.
    pub(in super::super) fn settings(vars: &[(&str, &str)]) -> Settings {
        Settings(Vars::of(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))))
    }

    #[test]
    fn an_address_may_be_a_host_alone_and_is_never_in_clear() {
        let of = |value: &str| settings(&[("A", value)]).base(&["B", "A"], "https://x.example/storage/v1");
        let made = |origin: &str, path: &str| Base { origin: origin.to_owned(), path: path.to_owned() };
        assert_eq!(of("").unwrap(), made("https://x.example", "/storage/v1"));
        assert_eq!(of("127.0.0.1:9000").unwrap(), made("http://127.0.0.1:9000", "/storage/v1"));
        assert_eq!(of("https://y.example/other/v2/").unwrap(), made("https://y.example", "/other/v2"));
        for bad in
            ["http://y.example", "y.example", "https://a@b", "https://y/../z", "https://y/a?b", "ftp://127.0.0.1"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_metadata_server_is_near() {
        let of = |host: &str| settings(&[("GCE_METADATA_HOST", host)]).metadata();
        assert_eq!(of("").unwrap(), "http://169.254.169.254");
        for good in ["127.0.0.1:81", "metadata.google.internal", "169.254.169.254:80"] {
            assert!(of(good).is_ok(), "{good}");
        }
        for bad in [
            "elsewhere",
            "169.254.169.254.elsewhere",
            "169.254.169.254@elsewhere",
            "metadata.google.internal/x",
            "10.0.0.1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_named_goes_before_the_usual_one() {
        let folder = tempfile::tempdir().unwrap();
        let usual = folder.path().join("application_default_credentials.json");
        let home = folder.path().display().to_string();
        assert_eq!(settings(&[("CLOUDSDK_CONFIG", &home)]).credentials(), None);
        std::fs::write(&usual, "{}").unwrap();
        assert_eq!(settings(&[("CLOUDSDK_CONFIG", &home)]).credentials(), Some((usual, false)));
        let named = [("CLOUDSDK_CONFIG", home.as_str()), ("GOOGLE_APPLICATION_CREDENTIALS", "/x.json")];
        assert_eq!(settings(&named).credentials(), Some((PathBuf::from("/x.json"), true)));
    }
}
