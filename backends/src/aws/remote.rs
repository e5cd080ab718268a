//! Keys that somebody else gives out: STS, a program, a container's service, the instance's own service (IMDSv2).

use async_trait::async_trait;

use super::credentials::{Authorization, Keys, from_json, none};
use super::sign;
use crate::cloud::{SECRET_MAX, read_token};
use crate::program::secrets_of;
use crate::wire::http::xml::Element;
use crate::wire::http::{Answer, Call, Http, Method, Request, Sign, Text, Unsigned};
use crate::{BackendError, Secret};

/// How those who give out keys are reached.
pub(super) struct Places {
    /// Over the network.
    pub(super) http: Http,
    /// On this machine or its host: past proxies, and with little patience.
    pub(super) near: Http,
    /// Address of STS.
    pub(super) sts: String,
    pub(super) region: String,
}

/// Signs with keys that are at hand.
struct With<'a>(&'a Keys, &'a str);

#[async_trait]
impl Sign for With<'_> {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        sign::now(request, self.0, self.1, "sts");
        Ok(())
    }
}

fn pair(name: &str, value: impl Into<Text>) -> (String, Text) {
    (name.to_owned(), value.into())
}

/// A role for the token in a file (`AssumeRoleWithWebIdentity`).
pub(super) async fn web_identity(places: &Places, role: &str, session: &str, file: &str) -> Result<Keys, BackendError> {
    let token = read_token(file)?;
    let form = [
        pair("Action", "AssumeRoleWithWebIdentity"),
        pair("Version", "2011-06-15"),
        pair("RoleArn", role),
        pair("RoleSessionName", session),
        pair("WebIdentityToken", token),
    ];
    sts(places, &form, &Unsigned, &format!("web identity as {role}")).await
}

/// A role for keys (`AssumeRole`).
pub(super) async fn assume_role(
    places: &Places,
    with: Keys,
    role: &str,
    session: &str,
    external: Option<&str>,
) -> Result<Keys, BackendError> {
    let mut form = vec![
        pair("Action", "AssumeRole"),
        pair("Version", "2011-06-15"),
        pair("RoleArn", role),
        pair("RoleSessionName", session),
    ];
    // Who knows it may take on the role.
    form.extend(external.map(|external| pair("ExternalId", Secret::new(external.to_owned()))));
    let from = format!("role {role} by {}", with.from);
    sts(places, &form, &With(&with, &places.region), &from).await
}

async fn sts(places: &Places, form: &[(String, Text)], sign: &dyn Sign, from: &str) -> Result<Keys, BackendError> {
    let mut request = Request::new("take on a role", Method::Post, &places.sts, "/").form(form);
    request.answer_is_secret = true;
    let (asked, answer) = (request.clone(), places.http.send(Call::new(request, sign)).await?);
    let wrong = || BackendError::corrupt(asked.purpose, asked.place(), "the answer", "keys", "none");
    let document = Element::parse(&answer.body).map_err(|_| wrong())?;
    if !answer.is_good() {
        let text = |path| document.get(path).unwrap_or_default();
        return Err(answer.refused(&asked, text("Error/Code"), text("Error/Message")));
    }
    // The result stands in an element named after the action.
    let result = document.children.iter().find_map(|child| child.child("Credentials")).ok_or_else(wrong)?;
    let text = |name| result.get(name).ok_or_else(wrong);
    let secret = |name| Ok::<_, BackendError>(Secret::new(text(name)?.to_owned()));
    Ok(Keys {
        id: text("AccessKeyId")?.to_owned(),
        secret: secret("SecretAccessKey")?,
        token: Some(secret("SessionToken")?),
        until: Some(text("Expiration")?.parse().map_err(|_| wrong())?),
        from: from.to_owned(),
    })
}

/// What a program prints. Its command line comes from the user's own configuration; no shell reads it.
pub(super) async fn process(command: &str) -> Result<Keys, BackendError> {
    let words = words(command);
    let (program, arguments) = words.split_first().ok_or_else(|| none("no program is named"))?;
    let output = secrets_of("run the program for credentials", program, arguments.to_vec()).await?;
    from_json(&output, &format!("the program {program}"))
}

/// Splits at spaces outside double quotes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in command.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// What a container's service gives.
pub(super) async fn container(
    places: &Places,
    address: &str,
    authorization: Option<&Authorization>,
) -> Result<Keys, BackendError> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut request = Request::new(
        "ask the container for credentials",
        Method::Get,
        &format!("{scheme}://{host}"),
        format!("/{path}"),
    );
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        request = request.query(name, value);
    }
    match authorization {
        Some(Authorization::Token(token)) => request.set_header("authorization", token.clone()),
        Some(Authorization::File(file)) => request.set_header("authorization", read_token(file)?),
        None => {}
    }
    let answer = near(places, request).await?;
    from_json(&answer.body, "the container's role")
}

/// What the instance's role gives, by IMDSv2: a token first, and nothing without it.
pub(super) async fn instance(places: &Places, address: &str) -> Result<Keys, BackendError> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let token = Request::new("ask the instance for a token", Method::Put, address, "/latest/api/token")
        .header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
    let token = near(places, token).await.map_err(|error| none(&format!("nobody says who asks; {}", error.why)))?;
    let token = Secret::new(String::from_utf8_lossy(&token.body).trim().to_owned());
    let get = |path: String| {
        Request::new("ask the instance for credentials", Method::Get, address, path)
            .header("x-aws-ec2-metadata-token", token.clone())
    };
    let role = near(places, get(ROLES.to_owned())).await?;
    let role: String = String::from_utf8_lossy(&role.body).lines().next().unwrap_or_default().trim().to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    if role.is_empty() || !role.chars().all(plain) {
        return Err(none("this instance has no role"));
    }
    let answer = near(places, get(format!("{ROLES}{role}"))).await?;
    from_json(&answer.body, &format!("this instance's role {role}"))
}

async fn near(places: &Places, mut request: Request) -> Result<Answer, BackendError> {
    request.limit = SECRET_MAX;
    request.answer_is_secret = true;
    let (asked, answer) = (request.clone(), places.near.send(Call::new(request, &Unsigned)).await?);
    if answer.is_good() { Ok(answer) } else { Err(answer.refused(&asked, "", "it gives no credentials")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_into_words_and_read_by_no_shell() {
        assert_eq!(words(r#" /bin/x  "a b" --c="d e" "" $(f)"#), ["/bin/x", "a b", "--c=d e", "", "$(f)"]);
        assert!(words("  ").is_empty());
    }

    #[tokio::test]
    async fn what_a_program_prints_is_taken_and_never_repeated() {
        let keys = r#"printf {"Version":1,"AccessKeyId":"A","SecretAccessKey":"hunter2"}"#.replace('"', "\\x22");
        let keys = process(&keys).await.unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.reveal()), ("A", "hunter2"));
        for bad in ["printf hunter2", "false hunter2", "/nonexistent/hunter"] {
            let error = process(bad).await.unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
