//! The client against a server of a few lines that says what it is told to.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::Secret;

/// Keeps what was written down.
#[derive(Default)]
struct Kept(Mutex<Vec<WireEntry>>);

impl WireLog for Kept {
    fn entry(&self, entry: WireEntry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

/// Answers each connection with the next of `answers` and keeps the requests.
async fn serve(answers: Vec<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 64 << 10];
            let len = stream.read(&mut request).await.unwrap();
            keep.lock().unwrap().push(String::from_utf8_lossy(&request[..len]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (origin, seen)
}

fn rules() -> Rules {
    let brief = Duration::from_millis(2);
    Rules { tries: 3, first_wait: brief, longest_wait: brief, direct: true, ..Rules::default() }
}

fn client(wire: &Arc<Kept>) -> Http {
    Http::new(Arc::clone(wire) as Arc<dyn WireLog>, rules(), &[]).unwrap()
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nx-amzn-requestid: r-1\r\ncontent-length: 4\r\n\r\nfine";
const BROKEN: &str = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";
const SLOW_DOWN: &str = "HTTP/1.1 503 Slow\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\nfine";

fn get(origin: &str) -> Request {
    Request::new("fetch a thing", Method::Get, origin, "/a b")
}

#[tokio::test]
async fn what_breaks_or_is_cut_off_is_asked_again_and_each_try_is_written_down() {
    let (origin, _) = serve(vec![BROKEN, CUT, GOOD]).await;
    let wire = Arc::new(Kept::default());
    let answer = client(&wire).send(Call::new(get(&origin), &Unsigned)).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"fine"[..]));
    let log = wire.0.lock().unwrap();
    let status: Vec<_> = log.iter().map(|entry| entry.http.as_ref().map(|http| http.status)).collect();
    assert_eq!(status, [Some(500), None, Some(200)]);
    assert_eq!(log[2].http.as_ref().unwrap().request_id.as_deref(), Some("r-1"));
    assert_eq!(log[2].said, format!("GET {origin}/a%20b"));
    // printf fine | sha256sum
    assert_eq!(log[2].answer_digest, "sha256:d14a58bae804a2b80b5b76a010239c88ffca1fc7951a90f8e9131beda1e23c1b");
    assert!(log[1].error.is_some() && log[1].answered.is_none());
}

#[tokio::test]
async fn tries_end_and_what_must_not_happen_twice_is_not_repeated() {
    let (origin, seen) = serve(vec![CUT; 9]).await;
    let client = client(&Arc::default());
    let error = client.send(Call::new(get(&origin), &Unsigned)).await.unwrap_err();
    assert!(error.why.contains("tried 3 times"), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 3);
    let once = Call { once: true, ..Call::new(get(&origin), &Unsigned) };
    client.send(once).await.unwrap_err();
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn throttling_is_waited_out_even_by_what_must_not_happen_twice() {
    let mut answers = vec![SLOW_DOWN; 5];
    answers.push(GOOD);
    let (origin, _) = serve(answers).await;
    let gate = Gate::new(8, 8);
    let call = Call { once: true, gate: Some(&gate), ..Call::new(get(&origin), &Unsigned) };
    assert!(client(&Arc::default()).send(call).await.unwrap().is_good());
    // From 8 to 1 by five refusals, and one wider by the answer.
    assert!((gate.width() - 2.0).abs() < 1e-9, "{}", gate.width());
}

#[tokio::test]
async fn an_answer_that_the_judge_finds_bad_is_asked_for_again_and_never_given() {
    let (origin, _) = serve(vec![GOOD; 4]).await;
    let client = client(&Arc::default());
    let judge = |_: &Answer| Verdict::Bad("its checksum differs".to_owned());
    let call = Call { judge: &judge, ..Call::new(get(&origin), &Unsigned) };
    let error = client.send(call).await.unwrap_err();
    assert!(error.kind == Kind::Corrupt && error.why.contains("r-1") && error.why.contains("checksum"), "{error}");
    // All tries were used, and one answer is left for the next.
    assert!(client.send(Call::new(get(&origin), &Unsigned)).await.is_ok());
}

#[tokio::test]
async fn an_answer_too_long_is_refused_before_it_is_read() {
    let (origin, _) = serve(vec![GOOD; 3]).await;
    let mut request = get(&origin);
    request.limit = 3;
    let error = client(&Arc::default()).send(Call::new(request, &Unsigned)).await.unwrap_err();
    assert!(error.why.contains("more than 3 bytes"), "{error}");
}

/// Puts a new token on each request.
#[derive(Default)]
struct Tokens(Mutex<u32>);

#[async_trait]
impl Sign for Tokens {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        let token = format!("Bearer hunter{}", self.0.lock().unwrap());
        request.set_header("authorization", Secret::new(token));
        Ok(())
    }

    async fn renew(&self) -> Result<(), BackendError> {
        *self.0.lock().unwrap() += 1;
        Ok(())
    }
}

#[tokio::test]
async fn secrets_are_sent_and_seen_nowhere() {
    let (origin, seen) = serve(vec![CUT; 3]).await;
    let wire = Arc::new(Kept::default());
    let secret = |text: &str| Text::Secret(Secret::new(text.to_owned()));
    let form = [("grant".to_owned(), Text::from("x")), ("client_secret".to_owned(), secret("hunter8"))];
    let request = get(&origin).query("sig", secret("hunter7")).query("se", "2026").form(&form);
    let shown = format!("{request:?}");
    let tokens = Tokens::default();
    let error = client(&wire).send(Call::new(request, &tokens)).await.unwrap_err();
    let log = format!("{:?}", wire.0.lock().unwrap());
    for text in [&shown, &log, &error.to_string()] {
        assert!(!text.contains("hunter"), "{text}");
    }
    assert!(log.contains("sig=[secret]&se=2026"), "{log}");
    let sent = seen.lock().unwrap()[0].clone();
    for part in ["sig=hunter7&se=2026", "Bearer hunter0", "client_secret=hunter8"] {
        assert!(sent.contains(part), "{sent}");
    }
}

#[tokio::test]
async fn an_error_of_the_connection_names_no_secret() {
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let request = get(&format!("http://127.0.0.1:{port}")).query("sig", Secret::new("hunter9".to_owned()));
    let error = client(&Arc::default()).send(Call::new(request, &Unsigned)).await.unwrap_err();
    assert!(!error.to_string().contains("hunter") && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_was_refused_for_its_token_is_sent_with_a_new_one() {
    let no = "HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n";
    let (origin, seen) = serve(vec![no, GOOD]).await;
    let judge = |answer: &Answer| if answer.status == 401 { Verdict::Renew } else { Verdict::Done };
    let tokens = Tokens::default();
    let call = Call { judge: &judge, once: true, ..Call::new(get(&origin), &tokens) };
    assert!(client(&Arc::default()).send(call).await.unwrap().is_good());
    assert!(seen.lock().unwrap()[1].contains("hunter1"));
}
