//! What `clouds.yaml`, `secure.yaml` and the variables `OS_*` say of a cloud, as openstacksdk reads them.
//!
//! After "Configuring OpenStack SDK Applications" of the openstacksdk documentation. Not read: `clouds-public.yaml` and the vendors'
//! profiles, which openstacksdk brings along; a cloud that stands on one of them is refused with the key that is missing.

use std::path::{Path, PathBuf};

use super::yaml::{self, Map, Node};
use crate::cloud::Vars;
use crate::{BackendError, Secret};

/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// What stands for the variables of the environment, in place of a name in `clouds.yaml`.
const ENVIRONMENT: &[&str] = &["envvars", "env"];

/// See the module.
#[derive(Debug)]
pub(super) struct Settings {
    /// Its name in `clouds.yaml`; none if the environment says all.
    pub(super) name: Option<String>,
    /// Where it stands, for the record.
    pub(super) from: String,
    /// All that is said of it.
    cloud: Map,
}

impl Settings {
    /// What is known of the cloud of this name.
    pub(super) fn load(cloud: &str) -> Result<Self, BackendError> {
        let wanted = |name: &str| name.starts_with("OS_") || name == "HOME" || name == "XDG_CONFIG_HOME";
        Self::of(cloud, &Vars::load(wanted))
    }

    /// The same from given variables.
    pub(super) fn of(cloud: &str, vars: &Vars) -> Result<Self, BackendError> {
        let file = find(vars, "OS_CLIENT_CONFIG_FILE", "clouds")?;
        let named = match &file {
            Some(file) => of_file(file, cloud)?,
            None => None,
        };
        let settings = match (named, &file) {
            (Some(map), Some(file)) => {
                let secure = match find(vars, "OS_CLIENT_SECURE_FILE", "secure")? {
                    Some(secure) => of_file(&secure, cloud)?.unwrap_or_default(),
                    None => Map::new(),
                };
                let from = format!("cloud {cloud} of {}", file.display());
                Self { name: Some(cloud.to_owned()), from, cloud: over(map, secure) }
            }
            _ if ENVIRONMENT.contains(&cloud) => {
                Self { name: None, from: "the environment".to_owned(), cloud: of_vars(vars) }
            }
            _ => return Err(unknown(cloud, file.as_deref())),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Refuses what must not be, or is not spoken.
    fn check(&self) -> Result<(), BackendError> {
        let refuse = |why: &str, advice: &str| {
            Err(BackendError::caller("read the settings of the cloud", &self.from, why).advise(advice))
        };
        let no = |text: &str| matches!(text.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0" | "n");
        if self.get("verify").is_some_and(no) || self.get("insecure").is_some_and(|text| !no(text)) {
            return refuse(
                "it says that certificates are not to be verified: then anybody on the way could read the token and give other bytes as evidence",
                "name the certificate of the cloud's authority as `cacert` (OS_CACERT) and take `verify: false` (OS_INSECURE) away",
            );
        }
        if self.get("cert").is_some() {
            return refuse(
                "it wants a certificate of the client, which is not spoken here",
                "use a password or an application credential",
            );
        }
        if self.auth("auth_url").is_none() {
            return match self.get("profile").or_else(|| self.get("cloud")) {
                Some(_) => {
                    refuse("it stands on a vendor's profile, which is not read here", "write its auth_url beside it")
                }
                None => refuse("there is no auth_url", "name Keystone's address as auth_url (OS_AUTH_URL)"),
            };
        }
        Ok(())
    }

    /// A setting of the cloud itself.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.cloud.get(key)?.as_text().map(Secret::reveal)
    }

    /// One of how to log in, which may stand beside `auth` too.
    pub(super) fn auth(&self, key: &str) -> Option<&Secret> {
        let inner = self.cloud.get("auth").and_then(Node::as_map).and_then(|auth| auth.get(key)?.as_text());
        inner.or_else(|| self.cloud.get(key)?.as_text())
    }

    /// The region, if one is named.
    pub(super) fn region(&self) -> Option<&str> {
        let listed = || match self.cloud.get("regions") {
            Some(Node::List(list)) => match list.first()? {
                Node::Map(map) => map.get("name")?.as_text(),
                other => other.as_text(),
            },
            _ => None,
        };
        self.get("region_name").or_else(|| listed().map(Secret::reveal))
    }

    /// `public`, `internal` or `admin`.
    pub(super) fn interface(&self) -> &str {
        let named = self.get("interface").or_else(|| self.get("endpoint_type")).unwrap_or("public");
        named.strip_suffix("URL").unwrap_or(named)
    }

    /// The address of a service that goes before the catalog's: any of its types.
    pub(super) fn endpoint(&self, types: &[&str]) -> Option<&str> {
        types.iter().find_map(|name| self.get(&format!("{}_endpoint_override", name.replace('-', "_"))))
    }

    /// Certificates to trust besides the system's, in PEM.
    pub(super) fn roots(&self) -> Result<Vec<u8>, BackendError> {
        let Some(path) = self.get("cacert") else { return Ok(Vec::new()) };
        std::fs::read(path).map_err(|error| BackendError::io("read the certificates of `cacert`", path, &error))
    }
}

/// `OS_AUTH_URL` is `auth_url`, and so on.
fn of_vars(vars: &Vars) -> Map {
    let key = |name: &str| name.strip_prefix("OS_").map(str::to_ascii_lowercase);
    vars.iter().filter_map(|(name, value)| Some((key(name)?, Node::Text(value.clone())))).collect()
}

/// The file that a variable names, or the first of its name in the usual folders.
fn find(vars: &Vars, var: &str, stem: &str) -> Result<Option<PathBuf>, BackendError> {
    if let Some(named) = vars.get(var) {
        let path = PathBuf::from(named);
        if path.exists() {
            return Ok(Some(path));
        }
        return Err(BackendError::caller(
            "read the settings of the cloud",
            named,
            format!("{var} names it, and it is not there"),
        ));
    }
    let home = vars.get("HOME").map(|home| Path::new(home).join(".config"));
    let config = vars.get("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let folders = [Some(PathBuf::from(".")), config.map(|path| path.join("openstack")), Some("/etc/openstack".into())];
    let files = folders
        .into_iter()
        .flatten()
        .flat_map(|folder| ["yaml", "yml", "json"].map(|end| folder.join(format!("{stem}.{end}"))));
    Ok(files.into_iter().find(|path| path.exists()))
}

/// What a file says of a cloud.
fn of_file(path: &Path, cloud: &str) -> Result<Option<Map>, BackendError> {
    use std::io::Read;
    let failed =
        |error: &std::io::Error| BackendError::io("read the settings of the cloud", path.display().to_string(), error);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let document = yaml::parse(&text)
        .map_err(|why| BackendError::caller("read the settings of the cloud", path.display().to_string(), why))?;
    let clouds = document.get("clouds").and_then(Node::as_map);
    Ok(clouds.and_then(|clouds| clouds.get(cloud)).map(|cloud| cloud.as_map().cloned().unwrap_or_default()))
}

/// `above` laid over `below`, map by map.
fn over(mut below: Map, above: Map) -> Map {
    for (key, node) in above {
        let merged = match (below.remove(&key), node) {
            (Some(Node::Map(low)), Node::Map(high)) => Node::Map(over(low, high)),
            (_, node) => node,
        };
        below.insert(key, merged);
    }
    below
}

fn unknown(cloud: &str, file: Option<&Path>) -> BackendError {
    let why = match file {
        Some(file) => format!("{} has no cloud of that name", file.display()),
        None => "there is no clouds.yaml in this folder, in ~/.config/openstack or in /etc/openstack".to_owned(),
    };
    BackendError::caller("find the cloud", cloud, why)
        .advise("name one of clouds.yaml, or write openstack://envvars if the variables OS_* say all")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        Vars::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    const CLOUDS: &str = "clouds:\n  lab:\n    auth: {auth_url: http://k/, username: u}\n    regions: [{name: R1}, R2]\n    interface: internalURL\n    volume_endpoint_override: http://c\n  open:\n    auth: {auth_url: http://k}\n    verify: no\n  vendor: {profile: x}\n";

    #[test]
    fn files_and_environment_say_what_openstacksdk_says() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/openstack");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("clouds.yaml"), CLOUDS).unwrap();
        std::fs::write(folder.join("secure.yaml"), "clouds: {lab: {auth: {password: 007}}}").unwrap();
        let at = home.path().to_str().unwrap();
        let lab = Settings::of("lab", &vars(&[("HOME", at)])).unwrap();
        let auth = |key: &str| lab.auth(key).map(Secret::reveal);
        assert_eq!((auth("username"), auth("password"), auth("auth_url")), (Some("u"), Some("007"), Some("http://k/")));
        assert_eq!((lab.region(), lab.interface()), (Some("R1"), "internal"));
        assert_eq!((lab.endpoint(&["block-storage", "volume"]), lab.endpoint(&["image"])), (Some("http://c"), None));
        let env = [("HOME", at), ("OS_AUTH_URL", "http://e"), ("OS_ENDPOINT_TYPE", "admin")];
        for name in ENVIRONMENT {
            let env = Settings::of(name, &vars(&env)).unwrap();
            assert_eq!((env.name.as_deref(), env.interface()), (None, "admin"));
            assert_eq!(env.auth("auth_url").map(Secret::reveal), Some("http://e"));
        }
    }

    #[test]
    fn what_must_not_be_is_refused_with_the_reason() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("mine.yaml");
        std::fs::write(&file, CLOUDS).unwrap();
        let here = [("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap())];
        let env = [("OS_AUTH_URL", "http://e"), ("OS_INSECURE", "True")];
        for (cloud, vars, word) in [
            ("open", vars(&here), "cacert"),
            ("envvars", vars(&env), "cacert"),
            ("vendor", vars(&here), "profile"),
            ("none", vars(&here), "no cloud of that name"),
            ("envvars", vars(&[]), "auth_url"),
            ("lab", vars(&[("OS_CLIENT_CONFIG_FILE", "/nonexistent")]), "not there"),
        ] {
            let error = Settings::of(cloud, &vars).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
