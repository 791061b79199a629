//! Rules on Gateways, in the words of Istio's webhook.

use std::collections::BTreeSet;

use super::super::gateway::{Gateway, Port, Server, ServerTlsMode, ServerTlsSettings};
use super::super::problem::{Path, Problems};
use super::super::resource::Spec;
use super::text;

impl Spec for Gateway {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let servers = at.field("servers");
        if self.servers.is_empty() {
            problems.required(&servers, "gateway must have at least one server");
        }
        let mut names = BTreeSet::new();
        for (i, server) in self.servers.iter().enumerate() {
            let at = servers.index(i);
            let port = at.field("port");
            check_port(&server.port, &port, problems);
            let name = server.port.name.as_str();
            if !names.insert(name) {
                let why = format!("port names in servers must be unique: duplicate name {name}");
                problems.judge(&port.field("name"), name, Err(why));
            }
            check_hosts(&server.hosts, &at.field("hosts"), problems);
            check_tls(server, &at.field("tls"), problems);
            if !server.bind.is_empty() && server.bind.parse::<std::net::IpAddr>().is_err() {
                let verdict = Err(format!("{} is not a valid IP", server.bind));
                problems.judge(&at.field("bind"), server.bind.as_str(), verdict);
            }
        }
        text::labels(&self.selector, &at.field("selector"), problems);
    }
}

fn check_port(port: &Port, at: &Path<'_>, problems: &mut Problems) {
    problems.judge(&at.field("number"), port.number, text::port(port.number));
    if port.protocol().is_none() {
        let known = "HTTP, HTTP2, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP";
        let why = format!("invalid protocol {:?}, supported protocols are {known}", port.protocol);
        problems.judge(&at.field("protocol"), port.protocol.as_str(), Err(why));
    }
}

fn check_hosts(hosts: &[String], at: &Path<'_>, problems: &mut Problems) {
    if hosts.is_empty() {
        problems.required(at, "server config must contain at least one host");
    }
    for (i, host) in hosts.iter().enumerate() {
        let verdict = match host.split_once('/') {
            None => text::domain(host),
            Some(("", _) | (_, "")) => Err("config namespace and dnsName in host entry cannot be empty".to_owned()),
            Some((namespace, name)) if namespace == "*" || namespace == "." || text::is_label(namespace) => text::domain(name),
            Some((namespace, _)) => Err(format!("invalid namespace value {namespace:?} in {host:?}")),
        };
        problems.judge(&at.index(i), host.as_str(), verdict);
    }
}

fn check_tls(server: &Server, at: &Path<'_>, problems: &mut Problems) {
    let Some(protocol) = server.port.protocol() else { return };
    let Some(tls) = &server.tls else {
        if protocol.is_tls() {
            problems.required(at, "server must have TLS settings for HTTPS/TLS protocols");
        }
        return;
    };
    if !protocol.is_tls() {
        // A plain port may send its clients elsewhere, and no more.
        let plain = ServerTlsSettings { https_redirect: tls.https_redirect, ..Default::default() };
        if *tls != plain || !protocol.is_http() {
            let what = if protocol.is_http() { "plain text HTTP ports" } else { "non HTTPS/TLS ports" };
            problems.forbidden(at, &format!("server cannot have TLS settings for {what}"));
        }
        return;
    }
    let (mode, needs_client) = match tls.mode {
        ServerTlsMode::Simple => ("SIMPLE", false),
        ServerTlsMode::Mutual => ("MUTUAL", true),
        ServerTlsMode::OptionalMutual => ("OPTIONAL_MUTUAL", true),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough | ServerTlsMode::IstioMutual => return,
    };
    if !tls.credential_name.is_empty() || !tls.credential_names.is_empty() || !tls.tls_certificates.is_empty() {
        return;
    }
    for (field, missing, what) in [
        ("serverCertificate", tls.server_certificate.is_empty(), "a server certificate"),
        ("privateKey", tls.private_key.is_empty(), "a private key"),
        ("caCertificates", needs_client && tls.ca_certificates.is_empty(), "a client CA bundle"),
    ] {
        if missing {
            problems.required(&at.field(field), &format!("{mode} TLS requires {what}"));
        }
    }
}
