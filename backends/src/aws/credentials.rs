//! Who asks: the usual chain of the AWS tools, in their order, and keys that are fetched anew before they run out.
//!
//! Environment, web identity, profile (keys, role, process), container, instance role (IMDSv2 only). IAM Identity Center is not spoken:
//! `aws configure export-credentials` gives what the environment needs.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::Mutex;

use super::remote::{self, Places};
use super::settings::Settings;
use crate::wire::http::{Http, Rules};
use crate::{BackendError, Kind, Secret, WireLog};

/// Keys are fetched anew when they have less than this left.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Longest chain of roles.
const ROLES_MAX: usize = 8;

/// A pair of keys, for some time.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// The public half.
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
    /// When they end, if they do.
    pub(super) until: Option<Timestamp>,
    /// Where they came from, for the record.
    pub(super) from: String,
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// They stand somewhere.
    Fixed(Keys),
    /// A token in a file is given to STS for a role.
    WebIdentity { role: String, session: String, file: String },
    /// A role is taken on with keys from elsewhere.
    Role { role: String, session: String, external: Option<String>, with: Box<Source> },
    /// A program prints them.
    Process(String),
    /// A container's own service has them.
    Container { address: String, authorization: Option<Authorization> },
    /// The instance that this runs on has a role.
    Instance { address: String },
}

/// What a container's service wants to see.
#[derive(Debug, Clone)]
pub(super) enum Authorization {
    Token(Secret),
    File(String),
}

/// See the module.
pub(super) struct Credentials {
    source: Source,
    places: Places,
    kept: Mutex<Option<Keys>>,
}

impl Credentials {
    /// Chooses the source; nothing is fetched yet. `http` reaches STS, `sts` is its address.
    pub(super) fn new(
        settings: &Settings,
        http: Http,
        sts: String,
        region: &str,
        wire: &Arc<dyn WireLog>,
    ) -> Result<Self, BackendError> {
        // Whoever is not there must not be waited for long.
        let brief = Duration::from_secs(2);
        let rules = Rules { connect_within: brief, within: brief * 5, tries: 3, direct: true, ..Rules::default() };
        let near = Http::new(Arc::clone(wire), rules, &[])?;
        let places = Places { http, near, sts, region: region.to_owned() };
        Ok(Self { source: choose(settings)?, places, kept: Mutex::new(None) })
    }

    /// Keys that hold for some minutes at least.
    pub(super) async fn keys(&self) -> Result<Keys, BackendError> {
        let mut kept = self.kept.lock().await;
        let soon = Timestamp::now().checked_add(AHEAD).unwrap_or(Timestamp::MAX);
        if let Some(keys) = kept.as_ref().filter(|keys| keys.until.is_none_or(|until| until > soon)) {
            return Ok(keys.clone());
        }
        let keys = fetch(&self.source, &self.places).await?;
        *kept = Some(keys.clone());
        Ok(keys)
    }

    /// They were refused as run out.
    pub(super) async fn renew(&self) -> Result<(), BackendError> {
        if let Source::Fixed(keys) = &self.source {
            let why = "AWS says that they have run out, and there is no way to get new ones";
            return Err(BackendError::new(Kind::Unsupported, "go on with the keys", &keys.from, why)
                .advise("get new ones and go on with --resume"));
        }
        *self.kept.lock().await = None;
        Ok(())
    }
}

/// Boxed, since a role may stand on a role.
fn fetch<'a>(
    source: &'a Source,
    places: &'a Places,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Keys, BackendError>> + Send + 'a>> {
    Box::pin(async move {
        match source {
            Source::Fixed(keys) => Ok(keys.clone()),
            Source::WebIdentity { role, session, file } => remote::web_identity(places, role, session, file).await,
            Source::Role { role, session, external, with } => {
                let with = fetch(with, places).await?;
                remote::assume_role(places, with, role, session, external.as_deref()).await
            }
            Source::Process(command) => remote::process(command).await,
            Source::Container { address, authorization } => {
                remote::container(places, address, authorization.as_ref()).await
            }
            Source::Instance { address } => remote::instance(places, address).await,
        }
    })
}

fn choose(settings: &Settings) -> Result<Source, BackendError> {
    if settings.chosen {
        let found = of_profile(settings, &settings.profile, &mut Vec::new())?;
        let none =
            || BackendError::caller("find credentials", format!("profile {}", settings.profile), "it has no keys");
        return found.ok_or_else(none);
    }
    let session = || settings.var("AWS_ROLE_SESSION_NAME").unwrap_or("impound").to_owned();
    if let (Some(id), Some(secret)) = (settings.var("AWS_ACCESS_KEY_ID"), settings.var("AWS_SECRET_ACCESS_KEY")) {
        let token = settings.var("AWS_SESSION_TOKEN");
        return Ok(Source::Fixed(fixed(id, secret, token, "the environment".to_owned())));
    }
    if let (Some(file), Some(role)) = (settings.var("AWS_WEB_IDENTITY_TOKEN_FILE"), settings.var("AWS_ROLE_ARN")) {
        return Ok(Source::WebIdentity { role: role.to_owned(), session: session(), file: file.to_owned() });
    }
    if let Some(source) = of_profile(settings, &settings.profile, &mut Vec::new())? {
        return Ok(source);
    }
    if let Some(source) = container(settings)? {
        return Ok(source);
    }
    instance(settings)
}

fn fixed(id: &str, secret: &str, token: Option<&str>, from: String) -> Keys {
    let secret_of = |text: &str| Secret::new(text.to_owned());
    Keys { id: id.to_owned(), secret: secret_of(secret), token: token.map(secret_of), until: None, from }
}

/// What a profile says. `seen` are the profiles on the way here: a circle is refused, but for a profile that stands on its own keys.
fn of_profile(settings: &Settings, profile: &str, seen: &mut Vec<String>) -> Result<Option<Source>, BackendError> {
    let get = |key: &str| settings.of_profile(profile, key);
    let wrong = |why: &str| BackendError::caller("find credentials", format!("profile {profile}"), why.to_owned());
    let own = || {
        let (id, secret) = (get("aws_access_key_id")?, get("aws_secret_access_key")?);
        Some(Source::Fixed(fixed(id, secret, get("aws_session_token"), format!("profile {profile}"))))
    };
    if seen.iter().any(|name| name == profile) {
        // A role may be taken on with the keys of the same profile.
        return own().map(Some).ok_or_else(|| wrong("its roles stand on each other in a circle"));
    }
    seen.push(profile.to_owned());
    if seen.len() > ROLES_MAX {
        return Err(wrong("too many roles stand on each other"));
    }
    let Some(role) = get("role_arn") else {
        if get("sso_session").or_else(|| get("sso_start_url")).is_some() && own().is_none() {
            return Err(wrong("it uses IAM Identity Center, which impound does not speak")
                .advise(format!("eval \"$(aws configure export-credentials --profile {profile} --format env)\"")));
        }
        let process = || get("credential_process").map(|command| Source::Process(command.to_owned()));
        return Ok(own().or_else(process));
    };
    let (role, session) = (role.to_owned(), get("role_session_name").unwrap_or("impound").to_owned());
    if let Some(file) = get("web_identity_token_file") {
        return Ok(Some(Source::WebIdentity { role, session, file: file.to_owned() }));
    }
    let with = match (get("source_profile"), get("credential_source")) {
        (Some(source), _) => of_profile(settings, source, seen)?,
        (None, Some("Environment")) => {
            settings.var("AWS_ACCESS_KEY_ID").zip(settings.var("AWS_SECRET_ACCESS_KEY")).map(|(id, secret)| {
                Source::Fixed(fixed(id, secret, settings.var("AWS_SESSION_TOKEN"), "the environment".to_owned()))
            })
        }
        (None, Some("EcsContainer")) => container(settings)?,
        (None, Some("Ec2InstanceMetadata")) => Some(instance(settings)?),
        _ => None,
    };
    let with = with.ok_or_else(|| wrong("it names a role, and no keys to take it on with"))?;
    Ok(Some(Source::Role { role, session, external: get("external_id").map(ToOwned::to_owned), with: Box::new(with) }))
}

fn container(settings: &Settings) -> Result<Option<Source>, BackendError> {
    let address = match (
        settings.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        settings.var("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ) {
        (Some(path), _) => format!("http://169.254.170.2{path}"),
        (None, Some(address)) => address.to_owned(),
        (None, None) => return Ok(None),
    };
    // Whoever set the variable must not be able to have a token sent in clear over a network.
    let near = [
        "http://127.0.0.1",
        "http://localhost",
        "http://169.254.170.2",
        "http://169.254.170.23",
        "http://[::1]",
        "http://[fd00:ec2::23]",
    ];
    let is_near = near.iter().any(|near| address.strip_prefix(near).is_some_and(|rest| rest.starts_with([':', '/'])));
    if !address.starts_with("https://") && !is_near {
        return Err(BackendError::caller("ask the container for credentials", address, "it is neither near nor HTTPS"));
    }
    let file = settings.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(|file| Authorization::File(file.to_owned()));
    let token = || {
        let token = settings.var("AWS_CONTAINER_AUTHORIZATION_TOKEN")?;
        Some(Authorization::Token(Secret::new(token.to_owned())))
    };
    Ok(Some(Source::Container { address, authorization: file.or_else(token) }))
}

fn instance(settings: &Settings) -> Result<Source, BackendError> {
    if settings.var("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Err(none("nobody says who asks, and the instance's own service is switched off"));
    }
    let address = settings.var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or("http://169.254.169.254");
    Ok(Source::Instance { address: address.trim_end_matches('/').to_owned() })
}

/// No credentials, and how to get some.
pub(super) fn none(why: &str) -> BackendError {
    BackendError::new(Kind::Caller, "find credentials for AWS", "environment, profiles, container, instance", why)
        .advise("set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
}

/// Keys from a JSON document in the form that processes, containers and instances share. Its values get into no error.
pub(super) fn from_json(document: &[u8], from: &str) -> Result<Keys, BackendError> {
    let wrong = |what: &str| {
        BackendError::corrupt("read credentials", from, "the answer", format!("a document with {what}"), "none")
    };
    let document: Value = serde_json::from_slice(document).map_err(|_| wrong("keys, as JSON"))?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let (id, secret) = (text("AccessKeyId"), text("SecretAccessKey"));
    let (Some(id), Some(secret)) = (id, secret) else { return Err(wrong("AccessKeyId and SecretAccessKey")) };
    let token = text("SessionToken").or_else(|| text("Token"));
    let until = text("Expiration").map(|until| until.parse().map_err(|_| wrong("an Expiration that is a time")));
    Ok(Keys { until: until.transpose()?, ..fixed(id, secret, token, from.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::{settings, settings_of};
    use super::*;

    fn chosen(vars: &[(&str, &str)]) -> Result<Source, BackendError> {
        choose(&settings(vars)?)
    }

    #[test]
    fn the_chain_is_in_the_order_of_the_aws_tools() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let config = "[profile role]\nrole_arn=arn:r\nsource_profile=keys\nexternal_id=e\n[profile self]\nrole_arn=arn:s\nsource_profile=self\naws_access_key_id=B\naws_secret_access_key=hunter3\n[profile a]\nrole_arn=x\nsource_profile=b\n[profile b]\nrole_arn=y\nsource_profile=a\n[profile sso]\nsso_session=z\n[profile process]\ncredential_process=/bin/x\n[profile empty]\nregion=x\n";
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        std::fs::write(
            home.path().join(".aws/credentials"),
            "[keys]\naws_access_key_id=A\naws_secret_access_key=hunter2\n",
        )
        .unwrap();
        let at = ("HOME", home.path().to_str().unwrap());
        let profile = |name| chosen(&[at, ("AWS_PROFILE", name)]);
        let all = [at, ("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "hunter1"), ("AWS_PROFILE", "keys")];
        assert!(matches!(chosen(&all), Ok(Source::Fixed(keys)) if keys.id == "E"));
        assert!(matches!(profile("keys"), Ok(Source::Fixed(keys)) if keys.id == "A"));
        assert!(
            matches!(profile("self"), Ok(Source::Role { with, .. }) if matches!(&*with, Source::Fixed(keys) if keys.id == "B"))
        );
        assert!(matches!(profile("process"), Ok(Source::Process(_))));
        // A profile that is named for one purpose goes before everything else, and without keys it is not replaced by others.
        let named = |name| choose(&settings_of(&all, Some(name)).unwrap());
        assert!(matches!(named("role"), Ok(Source::Role { .. })));
        assert!(named("empty").unwrap_err().to_string().contains("no keys"));
        assert!(settings_of(&all, Some("nobodys")).is_err());
        let role = profile("role").unwrap();
        assert!(matches!(&role, Source::Role { external: Some(e), .. } if e == "e"));
        assert!(!format!("{role:?}").contains("hunter"));
        assert!(profile("a").unwrap_err().to_string().contains("circle"));
        assert!(profile("sso").unwrap_err().to_string().contains("export-credentials"));
        let web = [at, ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:w")];
        assert!(matches!(chosen(&web), Ok(Source::WebIdentity { .. })));
        assert!(matches!(chosen(&[at]), Ok(Source::Instance { .. })));
        assert!(chosen(&[at, ("AWS_EC2_METADATA_DISABLED", "true")]).is_err());
    }

    #[test]
    fn a_containers_token_goes_to_nobody_far_away() {
        for (address, good) in [
            ("http://127.0.0.1:80/x", true),
            ("https://elsewhere/x", true),
            ("http://elsewhere/x", false),
            ("http://127.0.0.1.elsewhere/x", false),
            ("http://localhost@elsewhere/x", false),
        ] {
            let found = container(&settings(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)]).unwrap());
            assert_eq!(found.is_ok(), good, "{address}");
        }
    }
}
