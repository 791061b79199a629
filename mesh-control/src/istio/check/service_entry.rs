//! Rules on ServiceEntries: those of the schema (CEL) and of Istio's webhook, in their words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::problem::{Path, Problems};
use super::super::resource::Spec;
use super::super::service_entry::{self, Resolution, ServiceEntry, WorkloadEntry};
use super::{export_to, text};

/// As the schema has it.
const MAX_HOSTS: usize = 256;

impl Spec for ServiceEntry {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        self.check_hosts(at, problems);
        self.check_addresses(&at.field("addresses"), problems);
        self.check_ports(at, problems);
        self.check_endpoints(at, problems);
        export_to(&self.export_to, &at.field("exportTo"), problems);
        if let Some(selector) = &self.workload_selector {
            text::labels(&selector.labels, &at.field("workloadSelector").field("labels"), problems);
        }
    }
}

impl ServiceEntry {
    fn check_hosts(&self, at: &Path<'_>, problems: &mut Problems) {
        let hosts = at.field("hosts");
        if self.hosts.is_empty() {
            problems.required(&hosts, "service entry must have at least one host");
        }
        if self.hosts.len() > MAX_HOSTS {
            problems.invalid(&hosts, self.hosts.len(), format_args!("Too many: must have at most {MAX_HOSTS} items"));
        }
        for (i, host) in self.hosts.iter().enumerate() {
            let verdict = if host == "*" { Err("hostname cannot be wildcard".to_owned()) } else { text::domain(host) };
            // Where addresses are learned by name, the DNS of the mesh knows two sorts of hosts: names, and all names below one.
            let verdict = verdict.and_then(|()| match host.strip_prefix('*') {
                Some(rest) if !rest.starts_with('.') => {
                    Err(format!("{host}: a wildcard must be the whole first label, as in *.example.com"))
                }
                _ => Ok(()),
            });
            let by_name = matches!(self.resolution, Resolution::Dns | Resolution::DnsRoundRobin) && self.endpoints.is_empty();
            let verdict = verdict.and_then(|()| match text::fqdn(host) {
                Err(why) if by_name => {
                    let mode = self.resolution.name();
                    Err(format!(
                        "hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for resolution mode {mode}, {why}"
                    ))
                }
                _ => Ok(()),
            });
            problems.judge(&hosts.index(i), host.as_str(), verdict);
        }
        let told_apart = |port: &service_entry::ServicePort| {
            let known = ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS"];
            known.iter().any(|name| name.eq_ignore_ascii_case(&port.protocol))
        };
        if self.hosts.len() > 1 && self.resolution != Resolution::None && !self.ports.iter().all(told_apart) {
            problems.forbidden(&hosts, "multiple hosts provided with non-HTTP, non-TLS ports");
        }
    }

    fn check_addresses(&self, at: &Path<'_>, problems: &mut Problems) {
        for (i, address) in self.addresses.iter().enumerate() {
            problems.judge(&at.index(i), address.as_str(), text::subnet(address));
        }
        let by_name = !matches!(self.resolution, Resolution::None | Resolution::Static);
        if by_name && self.addresses.iter().any(|address| address.contains('/')) {
            problems.forbidden(at, "CIDR addresses are allowed only for NONE/STATIC resolution types");
        }
    }

    fn check_ports(&self, at: &Path<'_>, problems: &mut Problems) {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        let ports = at.field("ports");
        for (i, port) in self.ports.iter().enumerate() {
            let at = ports.index(i);
            problems.judge(&at.field("number"), port.number, text::port(port.number));
            if !numbers.insert(port.number) {
                problems.judge(&at.field("number"), port.number, Err("port number cannot be duplicated".to_owned()));
            }
            let name = at.field("name");
            if !text::is_label(&port.name) {
                problems.judge(&name, port.name.as_str(), Err(format!("invalid port name: {}", port.name)));
            }
            if !names.insert(&port.name) {
                problems.judge(
                    &name,
                    port.name.as_str(),
                    Err(format!("service entry port name {:?} already defined", port.name)),
                );
            }
            if !port.protocol.is_empty()
                && service_entry::PROTOCOLS.iter().all(|known| !known.eq_ignore_ascii_case(&port.protocol))
            {
                let why = format!("unsupported protocol: {}", port.protocol);
                problems.judge(&at.field("protocol"), port.protocol.as_str(), Err(why));
            }
            if port.target_port != 0 {
                problems.judge(&at.field("targetPort"), port.target_port, text::port(port.target_port));
            }
        }
    }

    fn check_endpoints(&self, at: &Path<'_>, problems: &mut Problems) {
        let endpoints = at.field("endpoints");
        if self.workload_selector.is_some() && !self.endpoints.is_empty() {
            problems.forbidden(at, "only one of WorkloadSelector or Endpoints can be set");
        }
        match self.resolution {
            Resolution::None if !self.endpoints.is_empty() => problems.forbidden(&endpoints, "NONE mode cannot set endpoints"),
            Resolution::DnsRoundRobin if self.endpoints.len() > 1 => {
                problems.forbidden(&endpoints, "DNS_ROUND_ROBIN mode cannot have multiple endpoints");
            }
            Resolution::Static if self.endpoints.is_empty() && self.workload_selector.is_none() => {
                problems.required(&endpoints, "endpoints must be provided if service entry resolution mode is static");
            }
            _ => {}
        }
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            self.check_endpoint(endpoint, &endpoints.index(i), problems);
        }
    }

    fn check_endpoint(&self, endpoint: &WorkloadEntry, at: &Path<'_>, problems: &mut Problems) {
        let (address, field) = (endpoint.address.as_str(), at.field("address"));
        let is_ip = address.parse::<IpAddr>().is_ok();
        if address.is_empty() {
            problems.required(&field, "Address is required");
        } else if address.starts_with("unix://") {
            // Ours: a socket of the proxy's file system means nothing to a pod.
            problems.forbidden(&field, "unix domain sockets are not supported by this mesh");
        } else if self.resolution == Resolution::Static && !is_ip {
            problems.judge(&field, address, Err(format!("endpoint address {address:?} is not a valid IP address")));
        } else if !is_ip && text::fqdn(address).is_err() {
            problems.judge(&field, address, Err(format!("endpoint address {address:?} is not a valid FQDN or an IP address")));
        }
        let ports = at.field("ports");
        for (name, number) in &endpoint.ports {
            if !self.ports.iter().any(|port| port.name == *name) {
                let why = format!("endpoint port {number} is not defined by the service entry");
                problems.judge(&ports.key(name), *number, Err(why));
            }
            problems.judge(&ports.key(name), *number, text::port(*number));
        }
        text::labels(&endpoint.labels, &at.field("labels"), problems);
    }
}
