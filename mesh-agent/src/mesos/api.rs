//! The Mesos agent's API over HTTP: whom to ask, how to know that it is the right one, and who we are to it. What it is asked says
//! [`super`]. Nothing is ever sent to another host than the configured one: no redirect is followed.

#[cfg(test)]
mod tests;

use crate::cli::MesosAgent;
use crate::core::mesos::credentials::{self, Scheme};
use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mesh_common::ports::MESOS_AGENT;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fs::File;
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A container takes about 2 kB; a node has hundreds.
const ANSWER_MAX: usize = 16 << 20;

/// Where the Mesos agent is, and who we are to it.
#[derive(Clone)]
pub(crate) struct Address {
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Read anew for each question: a token of DC/OS holds for days.
    credentials: Option<(Scheme, PathBuf)>,
}

impl Address {
    /// Reads the flags.
    pub(crate) fn new(flags: &MesosAgent, node: IpAddr) -> Result<Self> {
        // Every node has one there.
        let default = || format!("http://{}", SocketAddr::new(node, MESOS_AGENT));
        let url = flags.mesos_agent.clone().unwrap_or_else(default);
        let (is_tls, authority) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(authority), _) => (true, authority),
            (_, Some(authority)) => (false, authority),
            _ => bail!("--mesos-agent {url:?} begins with neither http:// nor https://"),
        };
        let authority = authority.trim_end_matches('/');
        let is_plain = !authority.is_empty() && !authority.contains(['/', '@', '?', '#']);
        ensure!(is_plain, "--mesos-agent {url:?} is not http[s]://HOST:PORT; who we are says --mesos-agent-credentials-file");
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{MESOS_AGENT}") };
        let tls = match (&flags.mesos_agent_ca_file, is_tls) {
            (Some(file), true) => Some(connector(file, &authority)?),
            (None, true) => bail!("--mesos-agent {url:?} needs --mesos-agent-ca-file: whose certificates it may have"),
            (Some(_), false) => bail!("--mesos-agent-ca-file is for https://, and --mesos-agent is {url:?}"),
            (None, false) => None,
        };
        let basic = flags.mesos_agent_credentials_file.clone().map(|file| (Scheme::Basic, file));
        let token = flags.mesos_agent_token_file.clone().map(|file| (Scheme::Token, file));
        let address = Self { authority, tls, credentials: basic.or(token) };
        // What is wrong now is said now.
        address.authorization()?;
        if address.credentials.is_some() && !is_tls {
            tracing::warn!(
                agent = address.authority,
                "the Mesos agent is told who we are without TLS: whoever hears it can say the same"
            );
        }
        Ok(address)
    }

    /// `HOST:PORT`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Asks the operator API.
    pub(crate) async fn call(&self, question: &'static str) -> Result<Bytes> {
        let stream =
            TcpStream::connect(&self.authority).await.with_context(|| format!("cannot connect to {}", self.authority))?;
        let Some((connector, name)) = &self.tls else { return self.ask(stream, question).await };
        let stream = connector.connect(name.clone(), stream).await;
        self.ask(stream.with_context(|| format!("TLS with {} (--mesos-agent-ca-file)", self.authority))?, question).await
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, question: &'static str) -> Result<Bytes> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::post("/api/v1").header(HOST, &self.authority);
        request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json");
        if let Some(authorization) = self.authorization()? {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from_static(question.as_bytes())))?).await?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED if self.credentials.is_none() => {
                bail!("it wants to know who asks: --mesos-agent-credentials-file or --mesos-agent-token-file")
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                bail!("it answers {status}: the credentials are not its own, or may not ask {question}")
            }
            status if status.is_redirection() => bail!("it answers {status}, and nobody else is asked"),
            status => bail!("{question} is answered with {status}"),
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        connection.abort();
        Ok(body.to_bytes())
    }

    fn authorization(&self) -> Result<Option<HeaderValue>> {
        let Some((scheme, file)) = &self.credentials else { return Ok(None) };
        let flag = match scheme {
            Scheme::Basic => "--mesos-agent-credentials-file",
            Scheme::Token => "--mesos-agent-token-file",
        };
        let place = || format!("{flag} {}", file.display());
        let text = std::fs::read_to_string(file).with_context(place)?;
        let value = credentials::header(*scheme, &text).map_err(anyhow::Error::msg).with_context(place)?;
        let mut value = HeaderValue::try_from(value).with_context(place)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn connector(file: &Path, authority: &str) -> Result<(TlsConnector, ServerName<'static>)> {
    let place = || format!("--mesos-agent-ca-file {}", file.display());
    let mut reader = BufReader::new(File::open(file).with_context(place)?);
    let certificates: Vec<CertificateDer<'static>> =
        rustls_pemfile::certs(&mut reader).collect::<Result<_, _>>().with_context(place)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).with_context(place)?;
    }
    ensure!(!roots.is_empty(), "{}: no certificate in it", place());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host)
        .with_context(|| format!("--mesos-agent: {authority:?} has no host that a certificate could name"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
