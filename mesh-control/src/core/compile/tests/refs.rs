//! What rules refer to and is not there.

use super::*;
use crate::secret::{Secret, tests::pem};

/// Of each object the reason and the fields.
fn told(rules: &[Value], secrets: &[&str]) -> Vec<(String, &'static str, Vec<String>)> {
    let mut config = config(rules);
    for name in secrets {
        let (certificate, key) = pem("a.example.com");
        let secret = json!({"stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}});
        let secret = Arc::new(Secret::read(&secret).expect("valid"));
        config.secrets.insert(("default".to_owned(), (*name).to_owned()), secret);
    }
    let compiled = compiled_by(&reviews(&["v1"]), &config);
    let told = compiled.refs.iter().map(|((kind, _, name), dangling)| {
        let fields = dangling.iter().map(|one| one.message.split(": ").next().expect("a field").to_owned());
        (format!("{} {name}", kind.name()), dangling[0].reason, fields.collect())
    });
    told.collect()
}

#[test]
fn each_reference_to_nothing_is_told_with_its_field() {
    let half = |to: Value| json!({"destination": to["destination"], "weight": 50});
    let spec = json!({"hosts": ["reviews", "nobody"], "gateways": ["mesh", "edge"], "http": [
        {"match": [{"uri": {"exact": "/"}}], "route": [half(to("reviews", "v1")), half(to("absent", ""))], "mirror": {"host": "absent"}},
        {"delegate": {"name": "elsewhere"}}], "tcp": [{"route": [to("absent", "")]}]});
    let tls = json!({"tls": {"mode": "SIMPLE", "credentialName": "client"}});
    let server = json!({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "credentialName": "server"}});
    let rules = [
        rule("VirtualService", "v", 1, spec),
        rule("DestinationRule", "d", 1, json!({"host": "nobody", "trafficPolicy": tls})),
        rule("Gateway", "other", 1, json!({"servers": [server]})),
    ];
    let fields = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        told(&rules, &[]),
        [
            (
                "VirtualService v".to_owned(),
                "BackendNotFound",
                fields(&[
                    "spec.hosts[1]",
                    "spec.gateways[1]",
                    "spec.http[1].delegate",
                    "spec.http[0].route[0].destination.subset",
                    "spec.http[0].route[1].destination.host",
                    "spec.http[0].mirror.host",
                    "spec.tcp[0].route[0].destination.host",
                ])
            ),
            ("DestinationRule d".to_owned(), "BackendNotFound", fields(&["spec.host", "spec.trafficPolicy.tls.credentialName"])),
            ("Gateway other".to_owned(), "InvalidCertificateRef", fields(&["spec.servers[0].tls.credentialName"])),
        ]
    );
}

#[test]
fn what_appears_is_resolved() {
    let server = json!({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "credentialName": "server"}});
    let bound = json!({"hosts": ["shop.example.com"], "gateways": ["edge"], "http": [{"route": [to("reviews", "v1")]}]});
    let all = [
        rule("VirtualService", "v", 1, bound),
        rule("Gateway", "edge", 1, json!({"servers": [server]})),
        subsets("reviews", &["v1"]),
    ];
    assert_eq!(told(&all, &["server"]), [], "hosts of a rule for gateways alone are no references");
    let reasons =
        |rules: &[Value], secrets: &[&str]| told(rules, secrets).into_iter().map(|(_, reason, _)| reason).collect::<Vec<_>>();
    assert_eq!(reasons(&all, &[]), ["InvalidCertificateRef"]);
    assert_eq!(reasons(&all[..2], &["server"]), ["BackendNotFound"], "the subset");
    assert_eq!(reasons(&[all[0].clone(), all[2].clone()], &["server"]), ["ParentNotFound"]);
}
