//! What a node answers about itself: the Mesos agent on port 5051, as much as data-plane agents poll, and dcos-net.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::problem;
use crate::core::view::agent;
use crate::core::vips;
use crate::world::World;

type Node = State<(Arc<World>, usize)>;

pub(crate) fn router(world: Arc<World>, node: usize) -> Router {
    Router::new()
        .route("/api/v1", post(call))
        .route("/containers", get(containers))
        .route("/health", get(|| async {}))
        .with_state((world, node))
}

/// dcos-net's own API, on port 62080 of each node's loopback: what tools compare with.
pub(crate) fn dcos_net(world: Arc<World>) -> Router {
    let vips = async |State(world): State<Arc<World>>| axum::Json(vips::json(&world.core()));
    Router::new().route("/v1/vips", get(vips)).with_state(world)
}

async fn call(State((world, node)): Node, body: axum::body::Bytes) -> Response {
    let Ok(call) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "Failed to parse body into JSON").into_response();
    };
    let core = world.core();
    match call["type"].as_str() {
        Some("GET_STATE") => axum::Json(agent::state(&core, node)).into_response(),
        Some("GET_CONTAINERS") => {
            let nested = call["get_containers"]["show_nested"] == true;
            let containers = agent::containers(&core, node, nested);
            axum::Json(json!({"type": "GET_CONTAINERS", "get_containers": {"containers": containers}})).into_response()
        }
        other => problem(StatusCode::NOT_IMPLEMENTED, json!({"message": format!("the stand-in has no {other:?}")})),
    }
}

/// v0: plain strings instead of `{"value": …}`, and no nested containers.
async fn containers(State((world, node)): Node) -> axum::Json<Value> {
    let flat = |c: Value| {
        json!({
            "container_id": c["container_id"]["value"], "executor_id": c["executor_id"]["value"],
            "framework_id": c["framework_id"]["value"], "source": c["executor_id"]["value"], "executor_name": "",
            "status": c["container_status"], "statistics": {},
        })
    };
    axum::Json(agent::containers(&world.core(), node, false).into_iter().map(flat).collect())
}
