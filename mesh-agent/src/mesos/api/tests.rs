//! A Mesos agent with TLS and an authenticator, and others that are not the one that was meant.

use super::*;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const QUESTION: &str = r#"{"type":"GET_CONTAINERS"}"#;
const ANSWER: &str = r#"{"get_containers":{}}"#;
/// What `mesh s3cret` is to an agent.
const BASIC: &str = "basic bwvzadpzm2nyzxq=";

struct StandIn {
    port: u16,
    ca: tempfile::NamedTempFile,
    /// Heads of requests, in lower case.
    asked: Arc<Mutex<Vec<String>>>,
}

/// Answers by the head of the request: a status line, and headers besides.
async fn stand_in(tls: bool, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> StandIn {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).expect("valid");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), certified.cert.pem()).expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heads = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if tls {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, &heads, &answer).await;
                }
            } else {
                serve(stream, &heads, &answer).await;
            }
        }
    });
    StandIn { port, ca, asked }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, heads: &Mutex<Vec<String>>, answer: &impl Fn(&str) -> String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            // No method begins as a TLS handshake does.
            Ok(0x16) | Err(_) => return,
            Ok(byte) => head.push(byte),
        }
    }
    let mut body = vec![0; QUESTION.len()];
    if stream.read_exact(&mut body).await.is_err() || body != QUESTION.as_bytes() {
        return;
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let answer = answer(&head);
    heads.lock().expect("not poisoned").push(head);
    let length = ANSWER.len();
    let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: {length}\r\n\r\n{ANSWER}").as_bytes()).await;
}

fn flags(url: String) -> MesosAgent {
    MesosAgent { mesos_agent: Some(url), ..MesosAgent::default() }
}

fn secured(agent: &StandIn) -> MesosAgent {
    let ca = Some(agent.ca.path().to_owned());
    MesosAgent { mesos_agent_ca_file: ca, ..flags(format!("https://127.0.0.1:{}", agent.port)) }
}

fn address(flags: &MesosAgent) -> Result<Address, String> {
    Address::new(flags, IpAddr::from([192, 0, 2, 11])).map_err(|error| format!("{error:#}"))
}

async fn ask(flags: &MesosAgent) -> Result<Bytes, String> {
    address(flags)?.call(QUESTION).await.map_err(|error| format!("{error:#}"))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn an_agent_has_an_address() {
    let authority = |url: &str| address(&flags(url.to_owned())).map(|address| address.authority);
    assert_eq!(authority("http://192.0.2.11:5051/"), Ok("192.0.2.11:5051".to_owned()));
    assert_eq!(authority("http://agent.example"), Ok("agent.example:5051".to_owned()));
    assert_eq!(authority("http://[fd01::1]"), Ok("[fd01::1]:5051".to_owned()));
    assert_eq!(address(&MesosAgent::default()).map(|address| address.authority), Ok("192.0.2.11:5051".to_owned()));
    for (url, word) in [
        ("https://a", "--mesos-agent-ca-file"),
        ("a:5051", "neither"),
        ("http://a/b", "HOST:PORT"),
        ("http://u:p@a", "credentials"),
    ] {
        assert!(authority(url).expect_err(url).contains(word), "{url}");
    }
    let missing = MesosAgent { mesos_agent_token_file: Some("/nonexistent/token".into()), ..MesosAgent::default() };
    assert!(address(&missing).err().is_some_and(|error| error.contains("--mesos-agent-token-file /nonexistent/token")));
    let empty = file("no certificate");
    let flags = MesosAgent { mesos_agent_ca_file: Some(empty.path().to_owned()), ..flags("https://a".to_owned()) };
    assert!(address(&flags).err().is_some_and(|error| error.contains("no certificate in it")));
}

#[tokio::test]
async fn an_agent_with_tls_is_asked_as_whom_its_file_says() {
    let agent = stand_in(true, |head| {
        let known = head.contains(&format!("authorization: {BASIC}\r\n")) || head.contains("authorization: token=second\r\n");
        (if known { "200 OK" } else { "401 Unauthorized" }).to_owned()
    })
    .await;
    let error = ask(&secured(&agent)).await.expect_err("nobody");
    assert!(error.contains("--mesos-agent-credentials-file"), "{error}");
    let credentials = file("mesh s3cret");
    let basic = MesosAgent { mesos_agent_credentials_file: Some(credentials.path().to_owned()), ..secured(&agent) };
    assert_eq!(ask(&basic).await, Ok(Bytes::from_static(ANSWER.as_bytes())));
    let token = file("first");
    let with_token = MesosAgent { mesos_agent_token_file: Some(token.path().to_owned()), ..secured(&agent) };
    let address = address(&with_token).expect("valid");
    let error = address.call(QUESTION).await.expect_err("a token that has run out");
    assert!(error.to_string().contains("401"), "{error:#}");
    std::fs::write(token.path(), "second\n").expect("written");
    assert!(address.call(QUESTION).await.is_ok(), "the file is read anew");
    assert_eq!(agent.asked.lock().expect("not poisoned").len(), 4);
}

#[tokio::test]
async fn nothing_is_told_to_an_agent_with_another_certificate() {
    let (agent, other) = (stand_in(true, |_| "200 OK".to_owned()).await, stand_in(true, |_| "200 OK".to_owned()).await);
    let credentials = file("mesh s3cret");
    let flags = MesosAgent {
        mesos_agent_ca_file: Some(other.ca.path().to_owned()),
        mesos_agent_credentials_file: Some(credentials.path().to_owned()),
        ..secured(&agent)
    };
    let error = ask(&flags).await.expect_err("another authority");
    assert!(error.contains("TLS with 127.0.0.1") && error.contains("invalid peer certificate"), "{error}");
    assert!(agent.asked.lock().expect("not poisoned").is_empty());
    // Its certificate is for an address, not for this name of it.
    let named = MesosAgent { mesos_agent: Some(format!("https://localhost:{}", agent.port)), ..secured(&agent) };
    assert!(ask(&named).await.expect_err("another name").contains("TLS with localhost"));
    let plain = stand_in(false, |_| "200 OK".to_owned()).await;
    let without = MesosAgent { mesos_agent_ca_file: Some(plain.ca.path().to_owned()), ..flags_of(&plain) };
    assert!(ask(&without).await.expect_err("no TLS there").contains("TLS with"));
}

fn flags_of(agent: &StandIn) -> MesosAgent {
    flags(format!("https://127.0.0.1:{}", agent.port))
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = stand_in(false, |_| "200 OK".to_owned()).await;
    let to = other.port;
    let agent = stand_in(false, move |_| format!("307 Temporary Redirect\r\nlocation: http://127.0.0.1:{to}/api/v1")).await;
    let credentials = file("mesh s3cret");
    let flags = MesosAgent {
        mesos_agent_credentials_file: Some(credentials.path().to_owned()),
        ..flags(format!("http://127.0.0.1:{}", agent.port))
    };
    let error = ask(&flags).await.expect_err("a redirect");
    assert!(error.contains("nobody else is asked"), "{error}");
    assert!(other.asked.lock().expect("not poisoned").is_empty());
}
