//! What the environment says to the tools of Azure: who asks, and where Azure is.
//!
//! Names after `EnvironmentCredential`, `WorkloadIdentityCredential` and `ManagedIdentityCredential` of the Azure Identity libraries.
//! Every value is held as a secret, since some of them are.

use std::collections::BTreeMap;

use super::api::endpoint;
use crate::{BackendError, Secret};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<String, Secret>);

impl Settings {
    /// From this process's environment.
    pub(super) fn load() -> Self {
        Self::from_vars(std::env::vars_os().filter_map(|(name, value)| {
            let of_azure = |name: &String| name.starts_with("AZURE_") || name.starts_with("IDENTITY_");
            Some((name.into_string().ok().filter(of_azure)?, value.into_string().ok()?))
        }))
    }

    /// From variables, given by name and value.
    pub(super) fn from_vars(vars: impl Iterator<Item = (String, String)>) -> Self {
        let vars = vars.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, Secret::new(value)));
        Self(vars.collect())
    }

    /// A variable.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Secret::reveal)
    }

    /// A variable that is an address, or what it is without.
    pub(super) fn origin(&self, name: &str, otherwise: &str) -> Result<String, BackendError> {
        endpoint(name, self.var(name).unwrap_or(otherwise))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Settings of a test.
    pub(in super::super) fn settings(vars: &[(&str, &str)]) -> Settings {
        Settings::from_vars(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn an_address_may_be_a_host_alone_and_is_never_in_clear() {
        let set = settings(&[("A", "login.chinacloudapi.cn/"), ("B", "http://elsewhere"), ("C", "")]);
        assert_eq!(set.origin("A", "").unwrap(), "https://login.chinacloudapi.cn");
        assert_eq!(set.origin("C", "https://x").unwrap(), "https://x");
        assert!(set.origin("B", "").is_err());
    }
}
