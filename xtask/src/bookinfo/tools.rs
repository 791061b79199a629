//! Verbs that reach into a running shop. Each replaces this process, so that input, output and exit code are those of the command.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::images::Binaries;
use super::state::{self, State};
use crate::install;

#[derive(clap::Args)]
pub(crate) struct ExecArgs {
    #[arg(long, default_value = state::DEFAULT)]
    state: PathBuf,
    /// Name or prefix of the pod.
    pod: String,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct LogsArgs {
    #[arg(long, default_value = state::DEFAULT)]
    state: PathBuf,
    /// Name or prefix of the pod.
    pod: String,
}

#[derive(clap::Args)]
pub(crate) struct KubectlArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let mut command = sim("exec", &args.state)?;
    replace(command.arg(&args.pod).arg("--").args(&args.command))
}

pub(crate) fn logs(args: &LogsArgs) -> Result<ExitCode> {
    replace(sim("logs", &args.state)?.arg(&args.pod))
}

pub(crate) fn kubectl(args: &KubectlArgs) -> Result<ExitCode> {
    let mut command = Command::new(install::kubectl()?);
    if std::env::var_os("KUBECONFIG").is_none() {
        command.env("KUBECONFIG", State::new(state::DEFAULT.as_ref()).session()?.kubeconfig);
    }
    replace(command.args(&args.arguments))
}

/// Also while the shop is still coming up, when there is no session yet: that is when logs are wanted most.
fn sim(verb: &str, dir: &std::path::Path) -> Result<Command> {
    let state = State::new(dir);
    let program = Binaries::of(&state).path("marathon-sim");
    if !program.is_file() {
        state.session()?;
    }
    let mut command = Command::new(program);
    command.arg(verb).arg("--state").arg(&state.dir);
    Ok(command)
}

fn replace(command: &mut Command) -> Result<ExitCode> {
    Err(command.exec()).with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}
