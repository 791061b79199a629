//! Listener: where it listens or what it takes, what it looks at first, and its filter chains.

use super::at::{At, Invalid};
use super::chain::{self, Chain, Serve};
use super::common::{address, duration, unpack};
use crate::config::Inspect;
use crate::core::chain::Match;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use std::mem::take;
use std::net::SocketAddr;
use std::time::Duration;

const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const ORIGINAL_SRC: &str = "envoy.extensions.filters.listener.original_src.v3.OriginalSrc";
/// Envoy's default.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A listener whose route tables and secrets may still be elsewhere.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Of the original destination, or where it listens.
    pub address: SocketAddr,
    /// A port of the node's own.
    pub bound: bool,
    /// Of connections that come to pods.
    pub inbound: bool,
    /// Endpoints are dialled from the client's own address.
    pub original_source: bool,
    /// What is looked at first.
    pub inspect: Inspect,
    /// Conditions of `chains`, place by place.
    pub conditions: Vec<Match>,
    /// How connections are served.
    pub chains: Vec<Chain>,
    /// What no condition takes.
    pub default: Option<Chain>,
}

impl Listener {
    /// All ways of serving.
    pub fn all_chains(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().chain(&self.default)
    }
}

/// Reads a listener.
///
/// # Errors
/// Names the field that is not taken.
pub fn listener(at: &At<'_>, mut message: pb::Listener) -> Result<Listener, Invalid> {
    let name = take(&mut message.name);
    let address = address(at, message.address.take())?;
    // What the sockets are is the agent's to decide; statistics and metadata change no decision.
    message.stat_prefix.clear();
    message.metadata = None;
    message.transparent = None;
    // As Envoy: what says nothing has a port of its own.
    let bound = message.bind_to_port.take().is_none_or(|bind| bind.value);
    let inbound = take(&mut message.traffic_direction) == i32::from(TrafficDirection::Inbound) && !bound;
    let (mut inspect, original_source) = listener_filters(at, &mut message)?;
    // An unprivileged process has no socket for it but those of pods with captured ports.
    if original_source && !inbound {
        let why = "original_src is supported in a listener with traffic_direction INBOUND and bind_to_port false only";
        return Err(at.field("listener_filters").value(why));
    }
    let (mut conditions, mut chains) = (Vec::new(), Vec::new());
    let at_chains = at.field("filter_chains");
    for (index, chain) in take(&mut message.filter_chains).into_iter().enumerate() {
        let at = at_chains.index(index);
        let (condition, chain) = chain::chain(&at, chain)?;
        if conditions.contains(&condition) {
            return Err(at.value("the same filter_chain_match as a chain before it"));
        }
        conditions.push(condition);
        chains.push(chain);
    }
    let default = message.default_filter_chain.take();
    let default = default.map(|chain| chain::default(&at.field("default_filter_chain"), chain)).transpose()?;
    let is_http = |chain: &Chain| matches!(chain.serve, Serve::Http(_));
    if original_source && chains.iter().chain(&default).any(is_http) {
        let why = "original_src is supported with TcpProxy only: connections of requests are shared";
        return Err(at.field("listener_filters").value(why));
    }
    if chains.is_empty() && default.is_none() {
        return Err(at_chains.missing());
    }
    at.nothing_else(&message)?;
    // As Envoy, which adds the inspector when conditions need it.
    inspect.tls |= conditions.iter().any(Match::wants_tls);
    Ok(Listener { name, address, bound, inbound, original_source, inspect, conditions, chains, default })
}

/// What is looked at first, and whether endpoints see the client's address.
fn listener_filters(at: &At<'_>, message: &mut pb::Listener) -> Result<(Inspect, bool), Invalid> {
    let mut original_source = false;
    let mut inspect = Inspect { timeout: Some(INSPECT_TIMEOUT), ..Inspect::default() };
    if let Some(timeout) = message.listener_filters_timeout.take() {
        let timeout = duration(&at.field("listener_filters_timeout"), &timeout)?;
        inspect.timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
    }
    inspect.go_on = take(&mut message.continue_on_listener_filters_timeout);
    let filters = at.field("listener_filters");
    for (index, mut filter) in take(&mut message.listener_filters).into_iter().enumerate() {
        let at = filters.index(index);
        filter.name.clear();
        let Some(pb::listener_filter::ConfigType::TypedConfig(any)) = filter.config_type.take() else {
            return Err(at.field("typed_config").missing());
        };
        at.nothing_else(&filter)?;
        let at = at.field("typed_config");
        match any.type_url.rsplit('/').next() {
            Some(TLS_INSPECTOR) => {
                let mut tls: TlsInspector = unpack(&at, &any, TLS_INSPECTOR)?;
                // How much is read at a time changes no decision.
                tls.initial_read_buffer_size = None;
                at.nothing_else(&tls)?;
                inspect.tls = true;
            }
            Some(HTTP_INSPECTOR) => {
                at.nothing_else(&unpack::<HttpInspector>(&at, &any, HTTP_INSPECTOR)?)?;
                inspect.http = true;
            }
            // The original destination is known without it.
            Some(ORIGINAL_DST) => at.nothing_else(&unpack::<OriginalDst>(&at, &any, ORIGINAL_DST)?)?,
            Some(ORIGINAL_SRC) => {
                let mut source: OriginalSrc = unpack(&at, &any, ORIGINAL_SRC)?;
                // Address and port: the application sees both.
                if !take(&mut source.bind_port) {
                    return Err(at.field("bind_port").value("false is not supported"));
                }
                at.nothing_else(&source)?;
                original_source = true;
            }
            _ => return Err(at.value(format_args!("listener filter {:?} is not supported", any.type_url))),
        }
    }
    Ok((inspect, original_source))
}
