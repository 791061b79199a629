//! Logging in as a DC/OS service account, over TLS with an authority of the test's own.

use super::super::auth::Auth;
use super::super::client::{Client, Error, no_tls, tls};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Made for this test; it opens nothing.
const KEY: &str = include_str!("account.pem");

/// A master of DC/OS: Admin Router's login, and Marathon behind it.
#[derive(Default)]
struct Master {
    /// How long tokens live.
    lifetime: Duration,
    logins: Mutex<Vec<Value>>,
    /// Only the newest is good.
    revoked: Mutex<u64>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("json")
}

fn is_signed(token: &str) -> bool {
    let der = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("key");
    let PrivateKeyDer::Pkcs8(der) = &der else { panic!("pkcs8") };
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("rsa");
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64");
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    public.verify(signed.as_bytes(), &signature).is_ok()
}

async fn login(State(master): State<Arc<Master>>, axum::Json(body): axum::Json<Value>) -> Response {
    let token = body["token"].as_str().unwrap_or_default();
    let claims = claims(token);
    let short = claims["exp"].as_u64().is_some_and(|end| end > now() && end <= now() + 600);
    if !is_signed(token) || claims["uid"] != body["uid"] || !short {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut logins = master.logins.lock();
    logins.push(body.clone());
    let claims = json!({"uid": body["uid"], "exp": now() + master.lifetime.as_secs(), "n": logins.len()});
    axum::Json(json!({"token": format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))})).into_response()
}

async fn leader(State(master): State<Arc<Master>>, headers: HeaderMap) -> Response {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("token="));
    match token.map(claims) {
        Some(claims) if claims["n"].as_u64() > Some(*master.revoked.lock()) => {
            axum::Json(json!({"by": claims["n"]})).into_response()
        }
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

/// Its address, and its certificate as an authority's.
async fn serve(master: &Arc<Master>, dir: &std::path::Path) -> (String, PathBuf) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    for (name, text) in [("cert.pem", cert.pem()), ("key.pem", signing_key.serialize_pem())] {
        std::fs::write(dir.join(name), text).expect("written");
    }
    let config = crate::api::load_tls(&dir.join("cert.pem"), &dir.join("key.pem")).expect("tls");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let router = Router::new().route("/acs/api/v1/auth/login", post(login)).route("/service/marathon/v2/leader", get(leader));
    let router = router.with_state(master.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), hyper_util::service::TowerToHyperService::new(router.clone()));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let stream = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
            });
        }
    });
    (format!("https://localhost:{}", address.port()), dir.join("cert.pem"))
}

fn account(dir: &std::path::Path, uid: &str, endpoint: Option<&str>) -> PathBuf {
    let path = dir.join(format!("{uid}.json"));
    let mut file = json!({"scheme": "RS256", "uid": uid, "private_key": KEY});
    if let Some(endpoint) = endpoint {
        file["login_endpoint"] = json!(endpoint);
    }
    std::fs::write(&path, file.to_string()).expect("written");
    path
}

#[tokio::test]
async fn a_service_account_logs_in_once_renews_in_time_and_again_when_it_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let master = Arc::new(Master { lifetime: Duration::from_secs(3600), ..Default::default() });
    let (url, ca) = serve(&master, dir.path()).await;
    let marathon = format!("{url}/service/marathon");
    let auth = Auth::account(&account(dir.path(), "mesh", None), &marathon).expect("account");
    assert!(auth.needs_tls());
    let client = Client::new(std::slice::from_ref(&marathon), tls(&ca).expect("authority"), auth).expect("client");
    let by = async || client.get::<Value>("/v2/leader").await.expect("answer").expect("there")["by"].clone();
    assert_eq!((by().await, by().await), (json!(1), json!(1)), "one login for many requests");
    assert_eq!(master.logins.lock()[0]["uid"], "mesh");
    *master.revoked.lock() = 1;
    assert_eq!((by().await, by().await), (json!(2), json!(2)), "refused once, then by a new token");
    *master.revoked.lock() = 9;
    let refused = client.get::<Value>("/v2/leader").await.expect_err("refused");
    assert!(matches!(refused, Error::Status { status: StatusCode::UNAUTHORIZED, .. }), "{refused}");
    assert_eq!(master.logins.lock().len(), 3, "asked once more, not for ever");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let dir = tempfile::tempdir().expect("dir");
    // Ends at once: four fifths of it are over before the next request.
    let master = Arc::new(Master { lifetime: Duration::ZERO, ..Default::default() });
    let (url, ca) = serve(&master, dir.path()).await;
    let endpoint = format!("{url}/acs/api/v1/auth/login");
    let auth = Auth::account(&account(dir.path(), "mesh", Some(&endpoint)), "http://elsewhere").expect("account");
    let client = Client::new(&[format!("{url}/service/marathon")], tls(&ca).expect("authority"), auth).expect("client");
    for n in 1..=3 {
        let by = client.get::<Value>("/v2/leader").await.expect("answer").expect("there")["by"].clone();
        assert_eq!(by, json!(n), "a token of its own, without a refusal before it");
    }
}

#[tokio::test]
async fn an_authority_that_nobody_named_is_not_trusted() {
    let dir = tempfile::tempdir().expect("dir");
    let master = Arc::new(Master::default());
    let (url, _) = serve(&master, dir.path()).await;
    let other = tempfile::tempdir().expect("dir");
    let (_, other_ca) = serve(&master, other.path()).await;
    let client =
        Client::new(&[format!("{url}/service/marathon")], tls(&other_ca).expect("authority"), Auth::NONE).expect("client");
    let error = client.get::<Value>("/v2/leader").await.expect_err("not trusted").to_string();
    assert!(error.contains("certificate"), "{error}");
    let client = Client::new(&[format!("{url}/service/marathon")], no_tls(), Auth::NONE).expect("client");
    assert!(client.get::<Value>("/v2/leader").await.is_err());
    assert!(master.logins.lock().is_empty());
}

#[test]
fn files_that_hold_no_credentials_are_refused_with_what_they_lack() {
    let dir = tempfile::tempdir().expect("dir");
    let refused = |name: &str, text: &str, read: fn(&std::path::Path) -> anyhow::Result<Auth>| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        format!("{:#}", read(&path).map(drop).expect_err("refused"))
    };
    let account = |path: &std::path::Path| Auth::account(path, "http://m");
    assert!(refused("a", "nobody", Auth::basic).contains("NAME:PASSWORD"));
    assert!(refused("b", "{}", account).contains("uid"));
    assert!(refused("c", r#"{"uid": "x", "private_key": "secret"}"#, account).contains("private_key"));
}
