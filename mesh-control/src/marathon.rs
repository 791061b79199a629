//! Marathon: what it says over REST, when to ask again, and the last good answer.
//!
//! [`client`] speaks HTTP, [`auth`] says who we are, [`follow`] keeps a view up to date with them and [`kept`] keeps it over a restart;
//! [`sse`], [`hints`], [`overlay`] and [`types`] are pure. Several Marathons are followed side by side: [`gather`] brings them together.

pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod fetch;
pub(crate) mod follow;
pub(crate) mod hints;
pub(crate) mod kept;
pub(crate) mod overlay;
pub(crate) mod sse;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod types;

use std::sync::Arc;
use tokio::sync::watch;
use types::View;

/// What every Marathon runs, in the order in which they were configured.
pub(crate) type Views = Vec<Arc<View>>;

/// All views as one value, from the moment on at which there is one of each: half a mesh would take away what nodes have of the other half.
pub(crate) fn gather(mut each: Vec<watch::Receiver<Option<Arc<View>>>>) -> watch::Receiver<Option<Arc<Views>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let views: Option<Views> = each.iter_mut().map(|view| view.borrow_and_update().clone()).collect();
            if let Some(views) = views {
                sender.send_replace(Some(Arc::new(views)));
            }
            let changes = each.iter_mut().map(|view| Box::pin(view.changed()));
            // Who follows does so for ever; its end is the process's.
            if sender.is_closed() || futures::future::select_all(changes).await.0.is_err() {
                return;
            }
        }
    });
    receiver
}
