//! What the environment and the files of the AWS tools say: profile, keys, endpoints.
//!
//! After "Configuration and credential file settings" and "Service-specific endpoints" of the AWS SDKs and Tools Reference Guide.
//! Every value of a file is held as a secret, since any of them may be one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cloud::Vars;
use crate::{BackendError, Secret};

/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// A section of a file: its keys in lower case. A nested key is `outer.inner`.
pub(super) type Section = BTreeMap<String, Secret>;

/// See the module.
#[derive(Default)]
pub(super) struct Settings {
    vars: Vars,
    /// Sections of the configuration file by their whole name.
    config: BTreeMap<String, Section>,
    /// Sections of the credentials file by profile.
    keys: BTreeMap<String, Section>,
    /// The profile in use.
    pub(super) profile: String,
    /// It was named for one purpose: whatever keys the environment holds are not meant.
    pub(super) chosen: bool,
}

impl Settings {
    /// From this process's environment and the files that it names.
    pub(super) fn load() -> Result<Self, BackendError> {
        Self::of(vars(), None)
    }

    /// The same for a profile that is named for one purpose.
    pub(super) fn of_named(profile: &str) -> Result<Self, BackendError> {
        Self::of(vars(), Some(profile))
    }

    /// From these variables and the files that they name.
    fn of(vars: Vars, chosen: Option<&str>) -> Result<Self, BackendError> {
        let mut settings = Self { vars, chosen: chosen.is_some(), ..Self::default() };
        let named = chosen.or_else(|| settings.var("AWS_PROFILE")).or_else(|| settings.var("AWS_DEFAULT_PROFILE"));
        let named = named.map(ToOwned::to_owned);
        settings.profile = named.clone().unwrap_or_else(|| "default".to_owned());
        settings.config = read(&settings.file("AWS_CONFIG_FILE", "config"))?;
        settings.keys = read(&settings.file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
        if named.is_some() && !settings.has_profile(&settings.profile) {
            let why = "no file of the AWS tools has a profile of that name";
            return Err(BackendError::caller("choose the profile", &settings.profile, why).advise(
                if settings.chosen {
                    "look into ~/.aws/config"
                } else {
                    "look into ~/.aws/config, or unset AWS_PROFILE"
                },
            ));
        }
        Ok(settings)
    }

    fn file(&self, var: &str, name: &str) -> PathBuf {
        let home = || Path::new(self.var("HOME").unwrap_or("/nonexistent")).join(".aws").join(name);
        self.var(var).map_or_else(home, PathBuf::from)
    }

    /// A variable of the environment.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name)
    }

    fn config_section(&self, profile: &str) -> Option<&Section> {
        let long = self.config.get(&format!("profile {profile}"));
        long.or_else(|| self.config.get(profile).filter(|_| profile == "default"))
    }

    /// Does any file know of it?
    pub(super) fn has_profile(&self, profile: &str) -> bool {
        self.keys.contains_key(profile) || self.config_section(profile).is_some()
    }

    /// A key of a profile; the credentials file goes before the configuration file.
    pub(super) fn of_profile(&self, profile: &str, key: &str) -> Option<&str> {
        let found = self.keys.get(profile).and_then(|section| section.get(key));
        found.or_else(|| self.config_section(profile)?.get(key)).map(Secret::reveal)
    }

    /// Where a service is, if not at its own address: `service` as in `ec2`, `ebs`, `sts`.
    pub(super) fn endpoint(&self, service: &str) -> Option<String> {
        let is_true = |text: &str| text.eq_ignore_ascii_case("true");
        let own = |key| self.of_profile(&self.profile, key);
        let ignore = self.var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(is_true)
            || own("ignore_configured_endpoint_urls").is_some_and(is_true);
        if ignore {
            return None;
        }
        let of_services = || {
            let section = self.config.get(&format!("services {}", own("services")?))?;
            section.get(&format!("{service}.endpoint_url")).map(Secret::reveal)
        };
        let found = self.var(&format!("AWS_ENDPOINT_URL_{}", service.to_ascii_uppercase()));
        let found = found.or_else(|| self.var("AWS_ENDPOINT_URL")).or_else(of_services).or_else(|| own("endpoint_url"));
        found.map(|url| url.trim_end_matches('/').to_owned())
    }
}

fn vars() -> Vars {
    Vars::load(|name| name.starts_with("AWS_") || name == "HOME")
}

fn read(path: &Path) -> Result<BTreeMap<String, Section>, BackendError> {
    use std::io::Read;
    let failed = |error: &std::io::Error| {
        BackendError::io("read the settings of the AWS tools", path.display().to_string(), error)
    };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        result => result.map_err(|error| failed(&error))?,
    };
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok(parse(&text))
}

/// Sections of `key = value` lines. An indented line belongs to the key above it. What is neither is left out, as the AWS tools do.
fn parse(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let (mut here, mut outer) = (None, String::new());
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(name.clone()).or_default();
            here = Some(name);
            continue;
        }
        let Some((key, value)) = bare.split_once('=') else { continue };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        // A comment begins behind a space.
        let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default().trim_end();
        let key = if line.starts_with([' ', '\t']) {
            format!("{outer}.{key}")
        } else {
            outer.clone_from(&key);
            key
        };
        if let Some(section) = here.as_ref().and_then(|name| sections.get_mut(name)) {
            section.insert(key, Secret::new(value.to_owned()));
        }
    }
    sections
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Settings of a test, with files in `home/.aws`.
    pub(in super::super) fn settings(vars: &[(&str, &str)]) -> Result<Settings, BackendError> {
        settings_of(vars, None)
    }

    /// The same with a profile that is named for one purpose.
    pub(in super::super) fn settings_of(
        vars: &[(&str, &str)],
        profile: Option<&str>,
    ) -> Result<Settings, BackendError> {
        Settings::of(Vars::of(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))), profile)
    }

    #[test]
    fn files_and_environment_say_what_the_aws_tools_say() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let config = "[default]\nregion=x\n# no\n[profile  lab]\nservices = s # behind\nrole_arn=arn:x;y\n[services s]\nec2 =\n  endpoint_url = http://e/\nebs=\n\tendpoint_url=http://b\n";
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), "[lab]\naws_access_key_id = AKID\nrole_arn=mine\n")
            .unwrap();
        let at = home.path().to_str().unwrap();
        let lab = settings(&[("HOME", at), ("AWS_PROFILE", "lab"), ("AWS_ENDPOINT_URL_STS", "http://sts")]).unwrap();
        assert_eq!(lab.of_profile("lab", "role_arn"), Some("mine"));
        assert_eq!(lab.of_profile("lab", "services"), Some("s"));
        assert_eq!(lab.of_profile("default", "region"), Some("x"));
        assert_eq!(lab.endpoint("ec2").as_deref(), Some("http://e"));
        assert_eq!(
            (lab.endpoint("ebs").as_deref(), lab.endpoint("sts").as_deref()),
            (Some("http://b"), Some("http://sts"))
        );
        assert_eq!(settings(&[("HOME", at)]).unwrap().endpoint("ec2"), None);
        let off = [("HOME", at), ("AWS_ENDPOINT_URL", "http://x"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert_eq!(settings(&off).unwrap().endpoint("ec2"), None);
        assert!(settings(&[("HOME", at), ("AWS_PROFILE", "none")]).is_err());
    }
}
