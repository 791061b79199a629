//! `mesh-control backup` and `restore`: the rules, Secrets and VIPs of a control plane in one file, and back. What is in it decides `store::backup`.

use crate::ask;
use crate::store::Store;
use anyhow::{Context, Result};
use clap::Args;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// File to write, readable by its owner only since Secrets are in it; `-` is standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Unix socket of mesh-control serve
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/control-admin.sock")]
    admin_socket: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// What `mesh-control backup` has written; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory of the control plane's rules, as of `serve`, which must not run
    #[arg(long, env = "MESH_STATE", value_name = "DIR", default_value = "/var/lib/mesh-control")]
    state: PathBuf,
}

/// The database's file in the directory of `--state`.
pub(crate) fn database(state: &Path) -> PathBuf {
    state.join("state.redb")
}

/// Asks the running control plane, so that nothing has to stop for it.
pub(crate) fn backup(args: &BackupArgs) -> Result<()> {
    let text = ask::control(&args.admin_socket, "/backup")?;
    if args.file == Path::new("-") {
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    // Beside and renamed: a backup that was there stays until the new one is whole.
    let mut beside = args.file.clone().into_os_string();
    beside.push(".new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &args.file)
    };
    write().with_context(|| format!("cannot write {}", args.file.display()))
}

/// Replaces everything that is in the directory, or nothing.
pub(crate) fn restore(args: &RestoreArgs) -> Result<()> {
    let mut text = String::new();
    if args.file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(&args.file).with_context(|| args.file.display().to_string())?;
    }
    let document = serde_json::from_str(&text).with_context(|| format!("{} is no backup", args.file.display()))?;
    std::fs::create_dir_all(&args.state).with_context(|| format!("cannot make --state {}", args.state.display()))?;
    let store = Store::open(&database(&args.state)).context("while mesh-control serve runs there, nothing can be restored")?;
    let count = store.restore(document).with_context(|| format!("{}: nothing was changed", args.file.display()))?;
    writeln!(std::io::stdout(), "{count} objects restored")?;
    Ok(())
}
