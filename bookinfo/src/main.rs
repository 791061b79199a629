//! Istio's sample shop as one small program with four roles: `bookinfo {details,ratings,reviews,productpage}`.
//!
//! An ordinary application: it resolves names with getaddrinfo, dials what it gets and knows nothing of any mesh.
//! It depends on no crate of the mesh, so that what works for it works for any workload.

#![forbid(unsafe_code)]

mod client;
mod forward;
mod identity;
mod page;
mod productpage;
mod server;
mod session;
mod shop;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::{Parser, ValueEnum};

use crate::client::Backends;
use crate::identity::Identity;

/// What this process plays in the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Facts of the book.
    Details,
    /// Stars, by reviewer.
    Ratings,
    /// Texts; from v2 on with the stars of `ratings`.
    Reviews,
    /// The page that people see.
    Productpage,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Details => "details",
            Self::Ratings => "ratings",
            Self::Reviews => "reviews",
            Self::Productpage => "productpage",
        }
    }
}

#[derive(Debug, Parser)]
#[command(about, disable_version_flag = true)]
struct Args {
    #[arg(value_enum)]
    role: Role,
    /// Named in every answer; of reviews, v2 shows black stars, v3 red ones, v1 none.
    #[arg(long, default_value = "v1")]
    version: String,
    #[arg(long, default_value_t = 9080)]
    port: u16,
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    listen: IpAddr,
}

/// Everything that a request handler reads; made once.
pub(crate) struct App {
    pub(crate) role: Role,
    pub(crate) identity: Identity,
    pub(crate) backends: Backends,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().with_target(false).with_ansi(false).init();
    let args = Args::parse();
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let app = App {
        role: args.role,
        identity: Identity::from_env(args.role.name(), &args.version, env),
        backends: Backends::from_env(env),
    };
    server::serve(SocketAddr::new(args.listen, args.port), Arc::new(app)).await
}
