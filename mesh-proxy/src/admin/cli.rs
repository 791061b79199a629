//! `mesh-proxy clusters`, `stats` and the like: asks a running proxy's admin endpoint and prints what it says.

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// A proxy that does not answer within this time will not.
const LIMIT: Duration = Duration::from_secs(15);

/// Where the proxy is.
#[derive(Clone, Debug, Args)]
pub struct At {
    /// The proxy's admin socket. Only root and the proxy's own user may open it.
    #[arg(long, env = "MESH_PROXY_ADMIN_SOCKET", value_name = "SOCKET", default_value = "/run/mesh/proxy-admin.sock")]
    admin: PathBuf,
}

/// What to ask for.
#[derive(Clone, Debug, Subcommand)]
pub enum Ask {
    /// Print the clusters of a running proxy: limits, endpoints, and what the pods of this node have under way there.
    ///
    /// Lines are those of Envoy's page of that name: CLUSTER::ENDPOINT::STAT::VALUE, where STAT is cx_active, cx_total, cx_connect_fail,
    /// rq_active, rq_total, rq_success, rq_error, rq_timeout, health_flags (healthy, /failed_outlier_check, /failed_eds_health,
    /// /degraded_eds_health), weight, region, zone, sub_zone or priority; and CLUSTER::default_priority::LIMIT::VALUE. Numbers are sums over all
    /// pods of the node. Limits hold for each pod, and each pod ejects for itself: ejected_by_pods says how many have.
    ///
    /// Example: mesh-proxy clusters --filter 'reviews.*(cx_active|health_flags)'
    Clusters {
        /// Only lines in which this regular expression is found.
        #[arg(long, value_name = "REGEX")]
        filter: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Print the configuration that a running proxy has in force, as JSON: listeners, routes, clusters.
    ConfigDump {
        #[command(flatten)]
        at: At,
    },
    /// Print the counters of a running proxy.
    ///
    /// Lines are `NAME: VALUE` under Envoy's names: cluster.NAME.upstream_rq_total, cluster.NAME.outlier_detection.ejections_active,
    /// server.state (0 live, 1 draining, 3 not ready yet); and the process's own, mesh_proxy_*. Istio's metrics are in the page for Prometheus.
    Stats {
        /// Only names in which this regular expression is found.
        #[arg(long, value_name = "REGEX", conflicts_with = "prometheus")]
        filter: Option<String>,
        /// Leave out what is 0.
        #[arg(long, conflicts_with = "prometheus")]
        used_only: bool,
        /// The page that Prometheus reads: istio_requests_total and its sisters, mesh_proxy_*.
        #[arg(long)]
        prometheus: bool,
        #[command(flatten)]
        at: At,
    },
    /// Say whether a running proxy is ready; if it is not, say why and end with status 1.
    Ready {
        #[command(flatten)]
        at: At,
    },
    /// Begin a running proxy's planned stop, as SIGTERM does.
    ///
    /// It is not ready any more, requests in flight finish, each client connection ends with the answer to its next request, and the process ends
    /// with the last of them. What connects meanwhile is served as long as others are open; then it waits in the listeners, which mesh-agent
    /// holds, for the proxy that Marathon starts next.
    Drain {
        /// Seconds that open connections have at most; the running proxy's --drain-time by default.
        #[arg(long, value_name = "SECONDS")]
        time: Option<u16>,
        #[command(flatten)]
        at: At,
    },
    /// Print a running proxy's log level, or set it until the process ends.
    LogLevel {
        /// off, error, warn, info, debug or trace; PART=LEVEL for a part, several separated by commas, as in RUST_LOG.
        ///
        /// Example: mesh-proxy log-level info,mesh_proxy::pod=debug
        level: Option<String>,
        #[command(flatten)]
        at: At,
    },
}

impl Ask {
    /// Asks, and prints the answer on standard output.
    ///
    /// # Errors
    /// If the proxy cannot be reached or says no.
    pub fn run(&self) -> anyhow::Result<()> {
        let (method, path, at) = self.request();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let said = runtime.block_on(async { tokio::time::timeout(LIMIT, ask(&at.admin, method, &path)).await });
        let said = said.with_context(|| format!("the proxy at {} does not answer", at.admin.display()))??;
        match std::io::stdout().write_all(&said) {
            // `| head` has seen enough.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn request(&self) -> (Method, String, &At) {
        let with = |path: &str, parameters: &[(&str, Option<String>)]| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            for (name, value) in parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                query.append_pair(name, value);
            }
            let query = query.finish();
            if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
        };
        let get = |path, at| (Method::GET, path, at);
        match self {
            Self::Clusters { filter, at } => get(with("/clusters", &[("filter", filter.clone())]), at),
            Self::ConfigDump { at } => get("/config_dump".to_owned(), at),
            Self::Stats { prometheus: true, at, .. } => get("/stats/prometheus".to_owned(), at),
            Self::Stats { filter, used_only, at, .. } => {
                get(with("/stats", &[("filter", filter.clone()), ("usedonly", used_only.then(String::new))]), at)
            }
            Self::Ready { at } => get("/ready".to_owned(), at),
            Self::Drain { time, at } => {
                (Method::POST, with("/drain_listeners", &[("time", time.map(|time| time.to_string()))]), at)
            }
            Self::LogLevel { level: None, at } => get("/logging".to_owned(), at),
            Self::LogLevel { level, at } => (Method::POST, with("/logging", &[("level", level.clone())]), at),
        }
    }
}

async fn ask(socket: &Path, method: Method, path: &str) -> anyhow::Result<Bytes> {
    let stream = UnixStream::connect(socket);
    let stream =
        stream.await.with_context(|| format!("no proxy answers at {}; --admin names another socket", socket.display()))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let (status, body) = tokio::select! {
        exchanged = exchange => exchanged?,
        // It ends after the answer, or instead of it.
        ended = connection => bail!("the proxy broke off: {ended:?}"),
    };
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        ask: Ask,
    }

    #[test]
    fn each_command_asks_for_its_page() {
        for (line, method, path) in [
            ("clusters --filter a|b&c", Method::GET, "/clusters?filter=a%7Cb%26c"),
            ("clusters", Method::GET, "/clusters"),
            ("config-dump", Method::GET, "/config_dump"),
            ("stats --used-only", Method::GET, "/stats?usedonly="),
            ("stats --prometheus", Method::GET, "/stats/prometheus"),
            ("ready --admin /x", Method::GET, "/ready"),
            ("drain", Method::POST, "/drain_listeners"),
            ("drain --time 5", Method::POST, "/drain_listeners?time=5"),
            ("log-level", Method::GET, "/logging"),
            ("log-level a=debug", Method::POST, "/logging?level=a%3Ddebug"),
        ] {
            let cli =
                Cli::try_parse_from(["mesh-proxy"].into_iter().chain(line.split(' '))).unwrap_or_else(|error| panic!("{error}"));
            let (asked, found, _) = cli.ask.request();
            assert_eq!((asked, &*found), (method, path), "{line}");
        }
        assert!(Cli::try_parse_from(["mesh-proxy", "stats", "--prometheus", "--used-only"]).is_err());
    }
}
