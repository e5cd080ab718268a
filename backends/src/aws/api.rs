//! How AWS is asked: endpoints, the EC2 query protocol (XML), the REST of EBS direct (JSON), and what refusals mean.

use std::sync::Arc;

use serde_json::Value;

use super::credentials::Credentials;
use super::settings::Settings;
use super::sign::{self, Signer};
pub(super) use crate::cloud::Refused;
use crate::wire::http::xml::Element;
use crate::wire::http::{Answer, Call, Gate, Http, Method, Request, Rules, Text, Verdict};
use crate::{Access, BackendError, Secret};

/// The version of EC2's API that is spoken.
const EC2_VERSION: &str = "2016-11-15";
/// Requests for blocks at once: to begin with, and at most.
const GATE: (u32, u32) = (8, 64);
/// The only length of a block of EBS direct that is documented, in bytes.
pub(super) const BLOCK: u64 = 512 << 10;

/// AWS in one region.
pub(super) struct Api {
    http: Http,
    ec2: Service,
    ebs: Service,
    sts: Service,
    kms: Service,
    pub(super) region: String,
    pub(super) credentials: Arc<Credentials>,
    pub(super) gate: Gate,
}

struct Service {
    origin: String,
    signer: Signer,
}

impl Api {
    /// Nothing is asked yet.
    pub(super) fn new(region: &str, settings: &Settings, access: &Access) -> Result<Self, BackendError> {
        let roots = match settings.var("AWS_CA_BUNDLE") {
            Some(file) => {
                std::fs::read(file).map_err(|error| BackendError::io("read AWS_CA_BUNDLE", file.to_owned(), &error))?
            }
            None => Vec::new(),
        };
        let http = Http::new(Arc::clone(&access.wire), Rules::default(), &roots)?.at_most(access.rate);
        let origin = |service: &str| settings.endpoint(service).unwrap_or_else(|| own_address(service, region));
        let credentials = Credentials::new(settings, http.clone(), origin("sts"), region, &access.wire)?;
        Ok(Self::with(region, settings, http, &Arc::new(credentials), Gate::for_rate(GATE, access.rate, BLOCK)))
    }

    /// The same caller in another region.
    pub(super) fn in_region(&self, region: &str, settings: &Settings) -> Self {
        Self::with(region, settings, self.http.clone(), &self.credentials, Gate::for_rate(GATE, None, BLOCK))
    }

    fn with(region: &str, settings: &Settings, http: Http, credentials: &Arc<Credentials>, gate: Gate) -> Self {
        let service = |service: &'static str| Service {
            origin: settings.endpoint(service).unwrap_or_else(|| own_address(service, region)),
            signer: Signer { credentials: Arc::clone(credentials), region: region.to_owned(), service },
        };
        let (ec2, ebs, sts, kms) = (service("ec2"), service("ebs"), service("sts"), service("kms"));
        let (region, credentials) = (region.to_owned(), Arc::clone(credentials));
        Self { http, ec2, ebs, sts, kms, region, credentials, gate }
    }

    /// An action of EC2. `params` are `Name`, `value`; `once` if it must not happen twice.
    pub(super) async fn ec2<T: Clone + Into<Text>>(
        &self,
        purpose: &'static str,
        action: &str,
        params: &[(String, T)],
        once: bool,
    ) -> Result<Element, Refused> {
        self.query(&self.ec2, EC2_VERSION, purpose, action, params, once).await
    }

    /// An action of STS.
    pub(super) async fn sts(&self, purpose: &'static str, action: &str) -> Result<Element, Refused> {
        self.query::<String>(&self.sts, "2011-06-15", purpose, action, &[], false).await
    }

    /// An action of KMS, in JSON.
    pub(super) async fn kms(&self, purpose: &'static str, action: &str, asked: &Value) -> Result<Value, Refused> {
        let request = Request::new(purpose, Method::Post, &self.kms.origin, "/")
            .header("x-amz-target", format!("TrentService.{action}"))
            .body("application/x-amz-json-1.1", asked.to_string());
        let call = Call { judge: &judge, ..Call::new(request.clone(), &self.kms.signer) };
        let answer = good(&request, self.http.send(call).await?)?;
        serde_json::from_slice(&answer.body)
            .map_err(|why| BackendError::corrupt(purpose, request.place(), "the answer", "JSON", why).into())
    }

    /// An action of EC2 as an address, which stands for the one who signs it.
    pub(super) async fn ec2_address(&self, action: &str, params: &[(String, String)]) -> Result<Secret, BackendError> {
        let keys = self.credentials.keys().await?;
        let request = Request::new("sign an address", Method::Get, &self.ec2.origin, "/");
        let request = request.query("Action", action).query("Version", EC2_VERSION);
        let request = params.iter().fold(request, |request, (name, value)| request.query(name, value.as_str()));
        Ok(sign::address(request, &keys, &self.region, "ec2"))
    }

    async fn query<T: Clone + Into<Text>>(
        &self,
        service: &Service,
        version: &str,
        purpose: &'static str,
        action: &str,
        params: &[(String, T)],
        once: bool,
    ) -> Result<Element, Refused> {
        let mut form: Vec<(String, Text)> =
            vec![("Action".to_owned(), action.into()), ("Version".to_owned(), version.into())];
        form.extend(params.iter().map(|(name, value)| (name.clone(), value.clone().into())));
        let request = Request::new(purpose, Method::Post, &service.origin, "/").form(&form);
        let call = Call { judge: &judge, once, ..Call::new(request.clone(), &service.signer) };
        let answer = good(&request, self.http.send(call).await?)?;
        Element::parse(&answer.body).map_err(|why| {
            BackendError::corrupt(purpose, request.place(), "the answer", "XML of the documented form", why).into()
        })
    }

    /// A request to EBS direct. `check` finds what is wrong with a good answer.
    pub(super) async fn ebs(
        &self,
        purpose: &'static str,
        path: String,
        query: Vec<(&str, Text)>,
        limit: u64,
        check: &(dyn Fn(&Answer) -> Result<(), String> + Sync),
    ) -> Result<Answer, Refused> {
        let mut request = Request::new(purpose, Method::Get, &self.ebs.origin, path);
        request.limit = limit;
        request.query = query.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let judge = |answer: &Answer| match judge(answer) {
            Verdict::Done if answer.is_good() => check(answer).map_or_else(Verdict::Bad, |()| Verdict::Done),
            other => other,
        };
        let call = Call { judge: &judge, gate: Some(&self.gate), ..Call::new(request.clone(), &self.ebs.signer) };
        good(&request, self.http.send(call).await?)
    }
}

/// An answer that is no refusal.
fn good(request: &Request, answer: Answer) -> Result<Answer, Refused> {
    if answer.is_good() {
        return Ok(answer);
    }
    let (code, message) = said(&answer);
    Err(Refused { error: Box::new(refusal(&answer, request, &code, &message)), code })
}

/// The service's own address in a region.
fn own_address(service: &str, region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://{service}.{region}.{suffix}")
}

/// The code of an error and its message: XML of EC2 and STS, JSON of EBS.
fn said(answer: &Answer) -> (String, String) {
    let word =
        |code: &str| code.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned();
    if let Ok(document) = Element::parse(&answer.body) {
        let error = document.items("Errors").next().or_else(|| document.child("Error"));
        if let Some(error) = error {
            return (word(error.get("Code").unwrap_or_default()), clip(error.get("Message").unwrap_or_default()));
        }
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let code = answer.header("x-amzn-errortype").or_else(|| text("__type")).or_else(|| text("code"));
    let message = text("message").or_else(|| text("Message")).unwrap_or_default();
    let message = text("Reason").map_or(message.to_owned(), |reason| format!("{message} ({reason})"));
    (word(code.unwrap_or_default()), clip(&message))
}

/// A message of a server, short enough for an error.
fn clip(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(600).collect()
}

/// What to make of an answer of any of the services.
fn judge(answer: &Answer) -> Verdict {
    if answer.is_good() {
        return Verdict::Done;
    }
    match said(answer).0.as_str() {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SnapshotCreationPerVolumeRateExceeded"
        | "TooManyRequestsException"
        | "SlowDown" => Verdict::Throttled,
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => Verdict::Renew,
        "InternalError" | "InternalFailure" | "InternalServerException" | "Unavailable" | "ServiceUnavailable" => {
            Verdict::Again
        }
        _ => match answer.status {
            429 => Verdict::Throttled,
            408 | 500 | 502 | 503 | 504 => Verdict::Again,
            _ => Verdict::Done,
        },
    }
}

fn refusal(answer: &Answer, request: &Request, code: &str, message: &str) -> BackendError {
    let error = answer.refused(request, code, message);
    match code {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => error.advise(
            "impound doctor says which permission is missing; for an encrypted snapshot kms:Decrypt is needed too",
        ),
        "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" | "SignatureDoesNotMatch" => {
            error.advise("AWS does not know these keys: look at AWS_PROFILE and the clock of this machine")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_its_own_addresses() {
        assert_eq!(own_address("ec2", "eu-west-1"), "https://ec2.eu-west-1.amazonaws.com");
        assert_eq!(own_address("ebs", "cn-north-1"), "https://ebs.cn-north-1.amazonaws.com.cn");
    }
}
