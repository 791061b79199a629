//! `Gateway` as Istio's proto declares it; the API refuses it until it is enforced.

use std::collections::BTreeMap;

use super::decode::{enumeration, message};

message! {
    /// What the edge listens for.
    Gateway { servers: Vec<Server>, selector: BTreeMap<String, String>, }
}

message! {
    /// One port of the edge.
    Server {
        port: Port,
        bind: String,
        hosts: Vec<String> = required,
        tls: Option<ServerTlsSettings>,
        default_endpoint: String,
        name: String,
    }
}

message! {
    /// A port with its protocol.
    Port { number: u32 = required, protocol: String = required, name: String = required, target_port: u32, }
}

enumeration! {
    /// What the edge does with TLS.
    ServerTlsMode {
        Passthrough = "PASSTHROUGH",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        AutoPassthrough = "AUTO_PASSTHROUGH",
        IstioMutual = "ISTIO_MUTUAL",
        OptionalMutual = "OPTIONAL_MUTUAL",
    }
}

enumeration! {
    /// A version of TLS.
    TlsProtocol {
        Auto = "TLS_AUTO",
        V1_0 = "TLSV1_0",
        V1_1 = "TLSV1_1",
        V1_2 = "TLSV1_2",
        V1_3 = "TLSV1_3",
    }
}

message! {
    /// TLS of one port of the edge.
    ServerTlsSettings {
        https_redirect: bool,
        mode: ServerTlsMode,
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
        ca_crl: String,
        credential_name: String,
        credential_names: Vec<String>,
        ca_cert_credential_name: String,
        tls_certificates: Vec<TlsCertificate>,
        subject_alt_names: Vec<String>,
        verify_certificate_spki: Vec<String>,
        verify_certificate_hash: Vec<String>,
        min_protocol_version: TlsProtocol,
        max_protocol_version: TlsProtocol,
        cipher_suites: Vec<String>,
        insecure_skip_verify: Option<bool>,
    }
}

message! {
    /// Files of a certificate.
    TlsCertificate { server_certificate: String, private_key: String, ca_certificates: String, }
}
