//! `Gateway` as Istio's proto declares it (networking/v1alpha3/gateway.proto).

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

/// What a server of a gateway speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ServerProtocol {
    /// HTTP in the clear, gRPC and HTTP/2 among it.
    Http,
    /// HTTP inside TLS.
    Https,
    /// Anything inside TLS.
    Tls,
    /// Anything.
    Tcp,
}

impl Port {
    /// `None` if Istio knows no such protocol.
    pub(crate) fn protocol(&self) -> Option<ServerProtocol> {
        match self.protocol.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Some(ServerProtocol::Http),
            "HTTPS" => Some(ServerProtocol::Https),
            "TLS" => Some(ServerProtocol::Tls),
            "TCP" | "MONGO" | "REDIS" | "MYSQL" => Some(ServerProtocol::Tcp),
            _ => None,
        }
    }
}

impl ServerProtocol {
    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    pub(crate) const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
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
