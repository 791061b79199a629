//! Secrets as kubectl writes them, with certificates of the test's own making.

use super::*;

pub(crate) fn pem(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn tls(certificate: &str, key: &str) -> Value {
    json!({ "type": TLS, "stringData": { "tls.crt": certificate, "tls.key": key } })
}

#[test]
fn a_pair_is_read_in_both_spellings_and_told_apart_from_authorities() {
    let (certificate, key) = pem("a.example.com");
    let secret = Secret::read(&normal(&tls(&certificate, &key))).expect("valid");
    let credential = secret.credential().expect("usable");
    assert_eq!(credential.pair, Some((certificate.clone().into_bytes(), key.clone().into_bytes())));
    assert_eq!(credential.authorities, None);
    let generic = json!({ "stringData": { "cert": certificate, "key": key, "cacert": certificate } });
    let credential = Secret::read(&generic).expect("valid").credential().expect("usable");
    assert!(credential.pair.is_some() && credential.authorities == Some(certificate.into_bytes()));
    let none = Secret::read(&json!({ "stringData": { "password": "x" } })).expect("valid").credential().expect("nothing");
    assert!(none.pair.is_none() && none.authorities.is_none());
}

#[test]
fn what_cannot_be_used_is_named_and_never_shown() {
    let ((certificate, key), (_, other)) = (pem("a"), pem("b"));
    for (object, wanted) in [
        (json!({ "type": TLS }), "data[tls.crt]: Required value"),
        (tls("s3cret", &key), "data: Forbidden: tls.crt holds no certificate in PEM"),
        (tls(&certificate, "s3cret"), "data: Forbidden: tls.key holds no private key in PEM"),
        (tls(&certificate, &other), "data: Forbidden: tls.key is not the key of tls.crt"),
        (json!({ "data": { "a": "s3cret!" } }), "data[a]: Forbidden: it is not base64"),
        (json!({ "stringData": { "a": 5 } }), "stringData[a]: Forbidden: it is not a string"),
        (json!({ "stringData": { "a/b": "s3cret" } }), "a valid config key must consist of"),
        (json!({ "data": "s3cret" }), "data in body must be of type object"),
        (json!({ "type": 7 }), "type in body must be of type string"),
        (
            json!({ "stringData": { "a": "s3cret".repeat(MAX_DATA_BYTES) } }),
            "data: Forbidden: Too long: may have at most 65536 bytes",
        ),
    ] {
        let problems = Secret::read(&object).expect_err(wanted).to_string();
        assert!(problems.contains(wanted) && !problems.contains("s3cret"), "{problems}");
    }
    let secret = Secret::read(&json!({ "stringData": { "password": "s3cret", "ca.crt": "s3cret" } })).expect("valid");
    assert_eq!(format!("{secret:?}"), r#"{"ca.crt", "password"}"#);
    assert_eq!(secret.credential().map(|_| ()), Err("ca.crt holds no certificate in PEM".to_owned()));
}
