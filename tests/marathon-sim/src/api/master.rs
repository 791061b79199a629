//! The Mesos master's API on port 5050: its agents.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use crate::core::view::master;
use crate::world::World;

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new().route("/slaves", get(slaves)).route("/master/slaves", get(slaves)).with_state(world)
}

async fn slaves(State(world): State<Arc<World>>) -> Json<Value> {
    Json(master::slaves(&world.core()))
}
