//! What the environment says to the tools of Azure: who asks, and where Azure is.
//!
//! Names after `EnvironmentCredential`, `WorkloadIdentityCredential` and `ManagedIdentityCredential` of the Azure Identity libraries.

use super::api::endpoint;
use crate::BackendError;
use crate::cloud::Vars;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Settings(Vars);

impl Settings {
    /// From this process's environment.
    pub(super) fn load() -> Self {
        Self(Vars::load(|name| name.starts_with("AZURE_") || name.starts_with("IDENTITY_")))
    }

    /// A variable.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.0.get(name)
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
        Settings(Vars::of(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))))
    }

    #[test]
    fn an_address_may_be_a_host_alone_and_is_never_in_clear() {
        let set = settings(&[("A", "login.chinacloudapi.cn/"), ("B", "http://elsewhere"), ("C", "")]);
        assert_eq!(set.origin("A", "").unwrap(), "https://login.chinacloudapi.cn");
        assert_eq!(set.origin("C", "https://x").unwrap(), "https://x");
        assert!(set.origin("B", "").is_err());
    }
}
