//! What is printed when the shop is up.

use super::state::{Session, State};
use crate::install;
use crate::ui::say;

pub(crate) fn welcome(session: &Session) {
    let kubectl = install::kubectl_path();
    say(&format!(
        "
The shop is open:     {page}
Marathon:             http://{marathon}{zipkin}
To use kubectl:       export KUBECONFIG={kubeconfig}
                      alias kubectl={kubectl}      # Debian's 1.20; another kubectl does too

Five commands to try:
  kubectl apply -f bookinfo/destination-rule-all.yaml -f bookinfo/vs-all-v1.yaml   # reviews: always v1, no stars
  kubectl apply -f bookinfo/vs-delay-details.yaml       # sign in as jason and wait 7 s; nobody else does
  kubectl get virtualservice details -o yaml
  cargo xtask exec productpage -- curl -s http://reviews:9080/reviews/0
  kubectl delete -f bookinfo/vs-all-v1.yaml             # the three versions take turns again
",
        page = session.page,
        zipkin = session.zipkin.as_ref().map_or_else(String::new, |page| format!("\nZipkin, in a moment:  {page}")),
        marathon = session.marathon,
        kubeconfig = session.kubeconfig.display(),
        kubectl = kubectl.display(),
    ));
}

pub(crate) fn detached() {
    say("It stays up.  cargo xtask bookinfo status   prints this again;   cargo xtask bookinfo down   ends it.");
}

/// What to add to an error while the mesh comes up.
pub(crate) fn where_to_look(state: &State, detached: bool) -> String {
    let dir = state.dir.display();
    if detached {
        format!(
            "the nodes stay up to be looked at (`cargo xtask logs mesh-agent`, logs in {dir}); `cargo xtask bookinfo down` ends them"
        )
    } else {
        format!("the logs are kept in {dir} until the next run")
    }
}
