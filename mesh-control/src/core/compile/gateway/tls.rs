//! Filter chains of servers with TLS: one per server, or per rule where TLS passes through, chosen by server name.

use super::super::envoy::{self, core, listener, pack_any};
use super::super::listener as listeners;
use super::super::tcp::{self, Place};
use super::{Bound, Making, host, terminates};
use crate::istio::gateway::{ServerProtocol, ServerTlsMode, ServerTlsSettings, TlsProtocol};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use std::collections::BTreeSet;

/// Looks at the ClientHello, which says the server name.
pub(in super::super) fn inspector() -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack_any(TlsInspector::default()))),
        ..Default::default()
    }
}

impl Making<'_, '_, '_> {
    /// The chains of all servers with TLS on a port. A server name is the first one's that has it.
    pub(super) fn by_server_name(&mut self, servers: &[Bound<'_>]) -> Vec<listener::FilterChain> {
        let (mut chains, mut taken) = (Vec::new(), BTreeSet::new());
        for bound in servers {
            let Some(settings) = &bound.server.tls else { continue };
            match settings.mode {
                ServerTlsMode::Simple | ServerTlsMode::Mutual => chains.extend(self.ending(bound, settings, &mut taken)),
                ServerTlsMode::Passthrough => self.passing(bound, &mut taken, &mut chains),
                // Told by the list of what has no effect.
                ServerTlsMode::AutoPassthrough | ServerTlsMode::IstioMutual | ServerTlsMode::OptionalMutual => {}
            }
        }
        chains
    }

    /// A server where TLS ends.
    fn ending(
        &mut self,
        bound: &Bound<'_>,
        settings: &ServerTlsSettings,
        taken: &mut BTreeSet<String>,
    ) -> Option<listener::FilterChain> {
        let names: BTreeSet<String> = bound.server.hosts.iter().map(|entry| host::name(entry)).collect();
        if let Some(name) = names.iter().find(|name| taken.contains(*name)) {
            bound.tell(self.report, ".hosts", &format!("has {name}, which an older server on port {} has", bound.port));
            return None;
        }
        let context = match self.context(bound, settings) {
            Ok(context) => context,
            Err(why) => {
                bound.tell(self.report, ".tls.credentialName", &why);
                return None;
            }
        };
        let filter = if bound.server.port.protocol() == Some(ServerProtocol::Https) {
            let (name, meta) = (&bound.server.port.name, &bound.gateway.meta);
            let routes = format!("https.{}.{name}.{}.{}", bound.port, meta.name, meta.namespace);
            self.routes_of(&routes, std::slice::from_ref(bound), true);
            self.manager(&routes)
        } else {
            self.opaque(bound)?.filters.into_iter().next()?
        };
        let chain = chain_for(&names, filter);
        taken.extend(names);
        let socket = core::TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack_any(context))),
        };
        Some(listener::FilterChain { transport_socket: Some(socket), ..chain })
    }

    fn context(&mut self, bound: &Bound<'_>, settings: &ServerTlsSettings) -> Result<pb::DownstreamTlsContext, String> {
        let mutual = settings.mode == ServerTlsMode::Mutual;
        let (certificate, authorities) = self.credentials(bound, settings, mutual)?;
        let sds = |name: String| pb::SdsSecretConfig { name, sds_config: Some(envoy::ads()) };
        let params = pb::TlsParameters {
            tls_minimum_protocol_version: version(settings.min_protocol_version, pb::tls_parameters::TlsProtocol::TlSv12),
            tls_maximum_protocol_version: version(settings.max_protocol_version, pb::tls_parameters::TlsProtocol::TlsAuto),
            ..Default::default()
        };
        let https = bound.server.port.protocol() == Some(ServerProtocol::Https);
        let common = pb::CommonTlsContext {
            tls_params: Some(params),
            tls_certificate_sds_secret_configs: vec![sds(certificate)],
            validation_context_type: authorities
                .map(|name| pb::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(sds(name))),
            alpn_protocols: if https { vec!["h2".to_owned(), "http/1.1".to_owned()] } else { Vec::new() },
            ..Default::default()
        };
        Ok(pb::DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: mutual.then_some(envoy::BoolValue { value: true }),
            ..Default::default()
        })
    }

    /// A server through which TLS passes: the rules' tls routes say where to.
    fn passing(&mut self, bound: &Bound<'_>, taken: &mut BTreeSet<String>, chains: &mut Vec<listener::FilterChain>) {
        let gateway = bound.full_name();
        for (rule, common) in self.rules(bound) {
            let place = Place::Gateway { name: &gateway, labels: self.labels, port: bound.port };
            for route in &rule.spec.tls {
                for block in route.r#match.iter().filter(|block| place.takes_tls(block, &rule.meta.namespace)) {
                    let served: Vec<String> = common.iter().cloned().collect();
                    let names = block.sni_hosts.iter().flat_map(|name| host::common(&name.to_ascii_lowercase(), &served));
                    let names: BTreeSet<String> = names.filter(|name| !taken.contains(name)).collect();
                    if !names.is_empty() {
                        let filter = listeners::filter(tcp::FILTER, tcp::forward(self.c, &route.route, bound.port));
                        chains.push(chain_for(&names, filter));
                        taken.extend(names);
                    }
                }
            }
        }
    }

    /// The chain of a server for opaque connections: the first TCP route that is for it.
    pub(super) fn opaque(&mut self, bound: &Bound<'_>) -> Option<listener::FilterChain> {
        let gateway = bound.full_name();
        let place = Place::Gateway { name: &gateway, labels: self.labels, port: bound.port };
        let rules = self.rules(bound);
        let routes = rules.iter().flat_map(|(rule, _)| rule.spec.tcp.iter().map(move |route| (rule, route)));
        let mut taking = routes.filter(|(rule, route)| place.takes(&route.r#match, &rule.meta.namespace));
        let Some((_, route)) = taking.next() else {
            let tls = if terminates(bound.server) { " (TLS ends here)" } else { "" };
            bound.tell(self.report, "", &format!("has no tcp route of a VirtualService{tls}, so its port is not opened"));
            return None;
        };
        let filter = tcp::forward(self.c, &route.route, bound.port);
        Some(listener::FilterChain { filters: vec![listeners::filter(tcp::FILTER, filter)], ..Default::default() })
    }
}

/// A chain for some server names; `*` among them is any, also none.
fn chain_for(names: &BTreeSet<String>, filter: listener::Filter) -> listener::FilterChain {
    listener::FilterChain { filter_chain_match: Some(tcp::server_names(names)), filters: vec![filter], ..Default::default() }
}

fn version(given: TlsProtocol, default: pb::tls_parameters::TlsProtocol) -> i32 {
    match given {
        TlsProtocol::V1_2 => pb::tls_parameters::TlsProtocol::TlSv12.into(),
        TlsProtocol::V1_3 => pb::tls_parameters::TlsProtocol::TlSv13.into(),
        // Below 1.2 there is nothing here; told by the list of what has no effect.
        TlsProtocol::Auto | TlsProtocol::V1_0 | TlsProtocol::V1_1 => default.into(),
    }
}
