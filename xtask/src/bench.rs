//! `cargo xtask bench`: measurements beside what others do, in one run: of the real binaries on simulated nodes, and of the proxy alone.

mod cpu;
mod egress;
mod envoy;
mod kernel;
mod path;
mod profile;
mod proxy;
mod report;
mod stage;
mod wrk;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Requests a second and latency from pod to pod: no mesh, kernel mode, our proxy, Envoy behind iptables.
    Path(path::Args),
    /// New connections, requests and bytes in kernel mode, beside plain ones, iptables and nftables with 10 to 10,000 services.
    Kernel(kernel::Args),
    /// What an allowlist costs a connection, beside ipset and iptables, with 10 to 100,000 entries.
    Egress(egress::Args),
    /// The proxy alone, beside HAProxy, nginx and Envoy: requests per CPU-second, latency, memory.
    Proxy(proxy::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Path(args) => path::run(args),
        What::Kernel(args) => kernel::run(args),
        What::Egress(args) => egress::run(args),
        What::Proxy(args) => proxy::run(args),
    }
}
