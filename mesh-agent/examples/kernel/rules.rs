//! What iptables and nftables are told to do what kernel mode does, in the form in which Kubernetes' kube-proxy tells them: one chain for each
//! service, which draws a backend; found by a list of rules, or by a map of verdicts.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::common::Ns;

/// Rules of iptables for the node's namespace.
pub(crate) fn iptables(vips: &[String], backends: &[String]) -> String {
    let mut text = "*nat\n:SERVICES - [0:0]\n-A PREROUTING -j SERVICES\n".to_owned();
    for (number, vip) in vips.iter().enumerate() {
        let _ = writeln!(text, ":SVC-{number} - [0:0]\n-A SERVICES -d {vip}/32 -p tcp -m tcp --dport 80 -j SVC-{number}");
    }
    for number in 0..vips.len() {
        for (index, backend) in backends.iter().enumerate() {
            let left = backends.len() - index;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.6} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            let _ = writeln!(text, "-A SVC-{number} -p tcp {chance}-j DNAT --to-destination {backend}");
        }
    }
    text + "COMMIT\n"
}

/// Rules of nftables for the node's namespace.
pub(crate) fn nftables(vips: &[String], backends: &[String]) -> String {
    let draw: Vec<String> =
        backends.iter().enumerate().map(|(index, to)| format!("{index} : {}", to.replace(':', " . "))).collect();
    let draw = format!("dnat ip to numgen random mod {} map {{ {} }}", backends.len(), draw.join(", "));
    let mut text = "table ip mesh {\n".to_owned();
    for number in 0..vips.len() {
        let _ = writeln!(text, "chain svc{number} {{ meta l4proto tcp {draw}; }}");
    }
    text.push_str("map services {\ntype ipv4_addr . inet_proto . inet_service : verdict\nelements = {\n");
    for (number, vip) in vips.iter().enumerate() {
        let _ = writeln!(text, "{vip} . tcp . 80 : goto svc{number},");
    }
    text.push_str("}\n}\nchain prerouting { type nat hook prerouting priority dstnat; ip daddr . meta l4proto . th dport vmap @services; }\n}\n");
    text
}

/// What a sidecar's init container does, in one rule.
pub(crate) const REDIRECT: &str = "*nat\n-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001\nCOMMIT\n";

/// Has `program` read these rules inside the namespace.
pub(crate) fn apply(ns: &Ns, program: &[&str], rules: &str) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &ns.name])
        .args(program)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program:?}: {error}"));
    child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("reads on");
    assert!(child.wait().expect("a child").success(), "{program:?} refuses the rules");
}
