//! The mesh without the shop, of release binaries: what measurements start from. Called by `bench`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use super::images::{self, Binaries};
use super::state::State;
use super::{Args, mesh, sim};
use crate::cargo::read;

pub(crate) struct Bare {
    pub(crate) state: State,
    pub(crate) kubeconfig: PathBuf,
    binaries: Binaries,
    marathon: String,
    sim: sim::Sim,
}

impl Bare {
    /// Two nodes with everything on them that `install/` says.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        const NODES: u8 = 2;
        if !nix::unistd::geteuid().is_root() {
            bail!("simulated nodes are namespaces, cgroups and eBPF programs, which need root");
        }
        let state = State::new(dir);
        if state.exists() {
            sim::down(&state)?;
        }
        let binaries = images::place(&state, "release", &images::MESH)?;
        let args = Args { action: None, detach: false, no_zipkin: true, nodes: NODES, state: dir.to_owned() };
        let sim = sim::Sim::start(&state, &args, &binaries)?;
        let (marathon, nodes) = sim::ready(&state)?;
        let api = sim::free_port()?;
        let kubeconfig = mesh::credentials(&state, &binaries, &nodes, api)?;
        mesh::install(&marathon, NODES)?;
        mesh::wait(&state, &nodes)?;
        sim::forward(&state, &binaries, api, "mesh-control", mesh::API_PORT)?;
        Ok(Self { state, kubeconfig, binaries, marathon, sim })
    }

    /// A file in a directory that every pod may read and execute from.
    pub(crate) fn placed(&self, name: &str) -> PathBuf {
        self.binaries.path(name)
    }

    pub(crate) fn post_pod(&self, pod: &Value) -> Result<()> {
        mesh::post(&self.marathon, "/v2/pods", pod)
    }

    /// The command that runs a command inside a pod.
    pub(crate) fn exec(&self, pod: &str) -> Command {
        let mut command = Command::new(self.binaries.path("marathon-sim"));
        command.arg("exec").arg("--state").arg(&self.state.dir).args([pod, "--"]);
        command
    }

    /// All instances as the stand-in knows them.
    pub(crate) fn instances(&self) -> Result<Vec<Value>> {
        let mut command = Command::new(self.binaries.path("marathon-sim"));
        let said = read(command.arg("instances").arg("--state").arg(&self.state.dir).arg("--json"))?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Ends everything; nothing is left.
    pub(crate) fn end(self) -> Result<()> {
        drop(self.sim);
        sim::remove(&self.state)
    }
}
