//! The rivals' configurations: one thread, no access log, connections to backends kept, limits that are never reached, and routes as the
//! manuals of each would have them written.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// How many routes are many.
pub(super) const MANY: u32 = 1000;

/// Where a rival listens.
pub(super) struct Ports {
    pub(super) one: SocketAddr,
    pub(super) http2: SocketAddr,
    pub(super) many: SocketAddr,
    pub(super) grpc: SocketAddr,
}

impl Ports {
    pub(super) fn all(&self) -> [SocketAddr; 4] {
        [self.one, self.http2, self.many, self.grpc]
    }
}

/// Those before the last, which is everything.
fn paths() -> impl Iterator<Item = String> {
    (0..MANY - 1).map(|number| format!("/route-{number}/"))
}

/// What both nginx have in common. Everything that it writes is in `dir`.
fn nginx_http(name: &str, dir: &Path, rest: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {}/{name}-{kind};", dir.display())).join(" ");
    let user = if nix::unistd::geteuid().is_root() { "user root; " } else { "" };
    format!(
        "daemon off; master_process off; {user}pid {dir}/{name}.pid; error_log stderr crit; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; sendfile on; tcp_nopush on;
  open_file_cache max=10; default_type text/plain; {temporary}
{rest}}}\n",
        dir = dir.display()
    )
}

/// 1 KiB from memory, 1 MiB from a file.
pub(super) fn backend(http: SocketAddr, dir: &Path) -> String {
    let small = "x".repeat(1024);
    let server = format!(
        "  server {{ listen {http}; location = /1m {{ root {}; }} location / {{ return 200 {small}; }} }}\n",
        dir.display()
    );
    nginx_http("backend", dir, &server)
}

pub(super) fn nginx(ports: &Ports, http: SocketAddr, grpc: SocketAddr, dir: &Path) -> String {
    let kept = "keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 3600s;";
    let pass = "proxy_pass http://http;";
    let mut out = format!(
        "  upstream http {{ server {http}; {kept} }}
  upstream grpc {{ server {grpc}; {kept} }}
  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_max_temp_file_size 0;
  server {{ listen {}; location / {{ {pass} }} }}
  server {{ listen {} http2; location / {{ {pass} }} }}
  server {{ listen {} http2; location / {{ grpc_pass grpc://grpc; }} }}
  server {{ listen {}; location / {{ {pass} }}\n",
        ports.one, ports.http2, ports.grpc, ports.many
    );
    for path in paths() {
        let _ = writeln!(out, "    location {path} {{ {pass} }}");
    }
    out.push_str("  }\n");
    nginx_http("nginx", dir, &out)
}

pub(super) fn haproxy(ports: &Ports, http: SocketAddr, grpc: SocketAddr, map: &Path) -> String {
    format!(
        "global
  nbthread 1
  maxconn 4000
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
frontend one
  bind {}
  default_backend http
frontend many
  bind {}
  use_backend %[path,map_beg({},http)]
frontend grpc
  bind {} proto h2
  default_backend grpc
backend http
  server only {http} maxconn 4000
backend grpc
  server only {grpc} maxconn 4000 proto h2\n",
        ports.one,
        ports.many,
        map.display(),
        ports.grpc
    )
}

pub(super) fn haproxy_map() -> String {
    paths().map(|path| format!("{path} http\n")).collect()
}

pub(super) fn envoy(ports: &Ports, http: SocketAddr, grpc: SocketAddr) -> Value {
    let typed = |name: &str, kind: &str, mut value: Value| {
        value["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
        json!({ "name": name, "typed_config": value })
    };
    let address = |of: SocketAddr| json!({ "socket_address": { "address": of.ip().to_string(), "port_value": of.port() } });
    let to =
        |path: String, cluster: &str| json!({ "match": { "prefix": path }, "route": { "cluster": cluster, "timeout": "0s" } });
    let listener = |name: &str, at: SocketAddr, routes: Vec<Value>| {
        let manager = json!({
            "stat_prefix": name,
            "stream_idle_timeout": "0s",
            "route_config": { "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
            "http_filters": [typed("envoy.filters.http.router", "filters.http.router.v3.Router", json!({}))],
        });
        let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
        let filters = [typed("envoy.filters.network.http_connection_manager", kind, manager)];
        json!({ "name": name, "address": address(at), "filter_chains": [{ "filters": filters }] })
    };
    let cluster = |name: &str, at: SocketAddr, protocol: Value| {
        let limit = 1_000_000;
        let limits =
            json!({ "max_connections": limit, "max_pending_requests": limit, "max_requests": limit, "max_retries": limit });
        let endpoint = json!({ "endpoint": { "address": address(at) } });
        let options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [limits] },
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": { "@type": options, "explicit_http_config": protocol },
            },
        })
    };
    let many = paths().chain(["/".to_owned()]).map(|path| to(path, "http")).collect();
    json!({ "static_resources": {
        "listeners": [
            listener("one", ports.one, vec![to("/".to_owned(), "http")]),
            listener("many", ports.many, many),
            listener("grpc", ports.grpc, vec![to("/".to_owned(), "grpc")]),
        ],
        "clusters": [
            cluster("http", http, json!({ "http_protocol_options": {} })),
            cluster("grpc", grpc, json!({ "http2_protocol_options": {} })),
        ],
    } })
}
