//! The directory of a running shop: what `marathon-sim` keeps there, and what this command adds to find the shop again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub(crate) const DEFAULT: &str = "/run/mesh-bookinfo";

pub(crate) struct State {
    pub(crate) dir: PathBuf,
}

/// What `status` prints again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) page: String,
    pub(crate) kubeconfig: PathBuf,
    /// `host:port` of Marathon's REST API.
    pub(crate) marathon: String,
    pub(crate) nodes: Vec<String>,
    /// Zipkin's page, if there is one.
    #[serde(default)]
    pub(crate) zipkin: Option<String>,
}

impl State {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()) }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A node's file `path` (absolute on the node), seen from this machine.
    pub(crate) fn on_node(&self, node: &str, path: &str) -> PathBuf {
        self.dir.join(node).join("root").join(path.trim_start_matches('/'))
    }

    /// The running shop; an error if none answers.
    pub(crate) fn session(&self) -> Result<Session> {
        let file = self.join("session.json");
        let text = std::fs::read_to_string(&file);
        let text =
            text.with_context(|| format!("no shop is running in {}; start one with `cargo xtask bookinfo`", self.dir.display()))?;
        let session: Session =
            serde_json::from_str(&text).with_context(|| format!("{} is broken; remove the directory", file.display()))?;
        if std::net::TcpStream::connect(&session.marathon).is_err() {
            bail!("the shop in {} is dead; `cargo xtask bookinfo down` cleans up after it", self.dir.display());
        }
        Ok(session)
    }

    pub(crate) fn save(&self, session: &Session) -> Result<()> {
        std::fs::write(self.join("session.json"), serde_json::to_vec_pretty(session)?).context("cannot write the session")
    }

    /// Whether anything of a shop is there, running or not.
    pub(crate) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Whether this command made it: what is not ours is never removed. An empty one is what a start leaves that fails at once.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_empty() || self.join("images.json").is_file()
    }

    /// Nothing was started there.
    pub(crate) fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_files_are_under_its_root() {
        let state = State::new(Path::new("/run/x"));
        assert_eq!(state.on_node("node1", "/etc/mesh/ca.crt"), Path::new("/run/x/node1/root/etc/mesh/ca.crt"));
    }

    #[test]
    fn a_directory_is_ours_if_it_is_empty_or_holds_our_list_of_images() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        assert!(state.is_ours());
        std::fs::write(state.join("letter.txt"), "dear").unwrap();
        assert!(!state.is_ours());
        std::fs::write(state.join("images.json"), "{}").unwrap();
        assert!(state.is_ours());
        assert!(!State::new(&dir.path().join("none")).is_ours());
    }

    #[test]
    fn a_session_comes_back_and_a_dead_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        assert!(state.session().unwrap_err().to_string().contains("no shop is running"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let session = Session {
            page: "http://127.0.0.1:9080/productpage".into(),
            kubeconfig: "/x".into(),
            marathon: listener.local_addr().unwrap().to_string(),
            nodes: vec!["node1".into()],
            zipkin: Some("http://127.0.0.1:9411/zipkin/".into()),
        };
        state.save(&session).unwrap();
        assert_eq!(state.session().unwrap(), session);
        // Port 1 (tcpmux): nothing listens there, while the listener's own port may be another's the moment it is closed.
        state.save(&Session { marathon: "127.0.0.1:1".into(), ..session }).unwrap();
        assert!(state.session().unwrap_err().to_string().contains("is dead"));
    }
}
