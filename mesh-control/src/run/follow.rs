//! Makes of the command line's Marathons what follows each of them and keeps its view on disk.

use crate::config::MarathonArgs;
use crate::marathon::auth::Auth;
use crate::marathon::client::{self, Client};
use crate::marathon::follow::{Follower, Progress, Times};
use crate::marathon::kept::Keeper;
use crate::marathon::types::View;
use anyhow::{Result, bail};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One Marathon.
pub(super) struct Followed {
    follower: Follower,
    keeper: Keeper,
}

impl Followed {
    pub(super) fn progress(&self) -> Arc<Mutex<Progress>> {
        self.follower.progress.clone()
    }

    pub(super) fn views(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.follower.view.subscribe()
    }
}

/// All of them, in order.
pub(super) fn all(args: &MarathonArgs, state: &Path) -> Result<Vec<Followed>> {
    let clusters = args.marathon.iter().filter(|cluster| !cluster.is_empty());
    let clusters: Vec<Vec<String>> = clusters.map(|cluster| cluster.split(',').map(str::to_owned).collect()).collect();
    for (flag, files) in [("credentials", &args.marathon_credentials), ("service-account", &args.marathon_service_account)] {
        if files.len() > 1 && files.len() != clusters.len() {
            bail!(
                "--marathon-{flag} is given {} times for {} Marathons: once for all, or once for each",
                files.len(),
                clusters.len()
            );
        }
    }
    clusters.into_iter().enumerate().map(|(index, urls)| one(args, state, index, urls)).collect()
}

fn one(args: &MarathonArgs, state: &Path, index: usize, urls: Vec<String>) -> Result<Followed> {
    let of = |files: &[PathBuf]| files.get(index).or_else(|| files.first()).cloned();
    let first = urls.first().map_or("", String::as_str);
    let auth = match (of(&args.marathon_credentials), of(&args.marathon_service_account)) {
        (Some(file), _) => Auth::basic(&file)?,
        (None, Some(file)) => Auth::account(&file, first)?,
        (None, None) => Auth::NONE,
    };
    // An account may log in over TLS although Marathon itself is asked without.
    let secure = urls.iter().any(|url| url.starts_with("https://")) || auth.needs_tls();
    let tls = if secure { client::tls(&args.marathon_ca_file)? } else { client::no_tls() };
    let times = Times { resync: args.marathon_resync, silence: args.marathon_silence, ..Times::default() };
    let (view, progress) = (watch::Sender::default(), Arc::new(Mutex::new(Progress::default())));
    let follower = Follower { client: Client::new(&urls, tls, auth)?, times, view: view.clone(), progress: progress.clone() };
    let path = state.join(format!("marathon-{index}.json"));
    Ok(Followed { follower, keeper: Keeper { path, urls, view, progress } })
}

/// Runs until one of them panics, which is this task's panic too.
pub(super) async fn run(all: Vec<Followed>) {
    let mut tasks = JoinSet::new();
    for Followed { follower, keeper } in all {
        tasks.spawn(async { match follower.run().await {} });
        tasks.spawn(keeper.run());
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
