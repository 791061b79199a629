//! The last good view on disk: what a control plane that starts while Marathon is away goes on with. One file for each Marathon,
//! `STATE/marathon-N.json`; it may be deleted at any time. Nothing here decides when a view is good: what `follow` publishes is.

use super::follow::Progress;
use super::types::View;
use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A start asks Marathon first: what is on disk is used if there is no answer by then. Nodes have all that they had meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// At least this long between two writes, and twenty times as long as the last one took: a view of 50,000 tasks has tens of megabytes.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 20;
/// A view that does not change is still written this often, since its age counts from there.
const REFRESH: Duration = Duration::from_secs(60);

/// The file.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    /// Seconds of the epoch: when Marathon was heard last.
    heard: u64,
    /// Of which Marathon: one URL in common is enough.
    urls: Vec<String>,
    view: View,
}

/// Keeps one Marathon's view.
pub(crate) struct Keeper {
    pub(crate) path: PathBuf,
    pub(crate) urls: Vec<String>,
    pub(crate) view: watch::Sender<Option<Arc<View>>>,
    pub(crate) progress: Arc<Mutex<Progress>>,
}

impl Keeper {
    /// Restores if it must, then writes what changes. Ends when nobody publishes any more.
    pub(crate) async fn run(self) {
        let mut views = self.view.subscribe();
        let answered = tokio::time::timeout(PATIENCE, views.wait_for(Option::is_some)).await.is_ok();
        if !answered {
            self.restore();
        }
        let mut written: Option<(Arc<View>, SystemTime)> = None;
        let mut pause = PAUSE;
        loop {
            let view = views.borrow_and_update().clone();
            let heard = self.progress.lock().heard;
            let stale = |(last, since): &(Arc<View>, SystemTime), view: &Arc<View>, heard: SystemTime| {
                !Arc::ptr_eq(last, view) || heard.duration_since(*since).is_ok_and(|passed| passed >= REFRESH)
            };
            if let (Some(view), Some(heard)) = (view, heard)
                && written.as_ref().is_none_or(|written| stale(written, &view, heard))
            {
                let started = std::time::Instant::now();
                self.write(&view, heard).await;
                pause = PAUSE.max(started.elapsed() * PAUSE_FACTOR);
                written = Some((view, heard));
            }
            tokio::time::sleep(pause).await;
            let changed = tokio::time::timeout(REFRESH, views.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return;
            }
        }
    }

    fn restore(&self) {
        let kept = match read(&self.path) {
            Ok(Some(kept)) => kept,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "what Marathon said last cannot be read; it is asked until it answers"
                );
                return;
            }
        };
        if !kept.urls.iter().any(|url| self.urls.contains(url)) {
            tracing::warn!(of = ?kept.urls, "what is kept is another Marathon's, and is left alone");
            return;
        }
        let restored = self.view.send_if_modified(|view| {
            // It may have answered since we looked.
            let empty = view.is_none();
            if empty {
                *view = Some(Arc::new(kept.view));
            }
            empty
        });
        if restored {
            let heard = UNIX_EPOCH + Duration::from_secs(kept.heard);
            self.progress.lock().heard = Some(heard);
            let age_s = SystemTime::now().duration_since(heard).unwrap_or_default().as_secs();
            tracing::warn!(age_s, marathon = ?self.urls, "Marathon does not answer: going on with what it said before this start");
        }
    }

    async fn write(&self, view: &Arc<View>, heard: SystemTime) {
        let heard = heard.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (path, urls, view) = (self.path.clone(), self.urls.clone(), Arc::clone(view));
        let kept = move || write(&path, &Kept { heard, urls, view: View::clone(&view) });
        if let Ok(Err(error)) = tokio::task::spawn_blocking(kept).await {
            tracing::error!(
                error = format!("{error:#}"),
                "what Marathon says is not on disk; a start without it would know nothing"
            );
        }
    }
}

fn read(path: &Path) -> Result<Option<Kept>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?))
}

/// Beside the file, then in its place: whoever reads it finds the one or the other.
fn write(path: &Path, kept: &Kept) -> Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside).with_context(|| beside.display().to_string())?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("marathon-0.json");
        assert!(read(&path).expect("none").is_none());
        let app = serde_json::json!({"id": "/a", "portDefinitions": [{"port": 0}], "tasks": [{"id": "t", "host": "h", "ports": [1], "ipAddresses": [{"ipAddress": "9.0.0.1"}]}]});
        let mut view = View { bridge_name: "b".to_owned(), ..Default::default() };
        view.apps.insert("/a".to_owned(), Arc::new(serde_json::from_value(app).expect("app")));
        view.hosts.insert("h".to_owned(), "10.0.0.1".parse().expect("ip"));
        write(&path, &Kept { heard: 7, urls: vec!["http://m".to_owned()], view: view.clone() }).expect("written");
        assert_eq!(read(&path).expect("readable").expect("there").view, view);
        std::fs::write(&path, b"{\"heard\": 7").expect("cut");
        assert!(read(&path).is_err());
    }
}
