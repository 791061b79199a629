//! What the process logs, changeable while it runs. Set up by `main`, changed by the admin endpoint.

use std::str::FromStr;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::{Registry, reload};

/// The filter in force.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Why a level was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not one of the levels.
    #[error(
        "{0:?} is no level: off, error, warn, info, debug, trace; PART=LEVEL sets the level of a part, as in mesh_proxy::pod=debug"
    )]
    Level(String),
    /// Not what RUST_LOG may be.
    #[error("not a filter as in RUST_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Nobody logs any more.
    #[error("the log has ended")]
    Gone(#[from] reload::Error),
}

impl LogLevel {
    /// A layer that obeys, and its handle.
    #[must_use]
    pub fn new(filter: EnvFilter) -> (reload::Layer<EnvFilter, Registry>, Self) {
        let (layer, handle) = reload::Layer::new(filter);
        (layer, Self(handle))
    }

    /// As RUST_LOG would say it.
    ///
    /// # Errors
    /// If nobody logs any more.
    pub fn get(&self) -> Result<String, Unusable> {
        Ok(self.0.with_current(ToString::to_string)?)
    }

    /// From now on: a level, or `PART=LEVEL` and levels separated by commas.
    ///
    /// # Errors
    /// Says what is wrong with it; then what was in force stays.
    pub fn set(&self, text: &str) -> Result<(), Unusable> {
        // EnvFilter takes a misspelled level for the name of a part, and would silence all others.
        let wrong =
            text.split(',').find(|one| one.is_empty() || (!one.contains(['=', '[']) && LevelFilter::from_str(one).is_err()));
        match wrong {
            Some(wrong) => Err(Unusable::Level(wrong.to_owned())),
            None => Ok(self.0.reload(EnvFilter::builder().parse(text)?)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_set_and_a_misspelled_one_is_refused_by_name() {
        let (_layer, level) = LogLevel::new(EnvFilter::new("info"));
        assert_eq!(level.get().expect("lives"), "info");
        level.set("mesh_proxy::pod=trace,warn").expect("taken");
        assert_eq!(level.get().expect("lives"), "mesh_proxy::pod=trace,warn");
        for wrong in ["dbug", "", "warn,loud", "a=loud"] {
            assert!(level.set(wrong).is_err(), "{wrong:?}");
        }
        assert!(level.set("dbug").expect_err("refused").to_string().starts_with("\"dbug\" is no level: off"));
        assert_eq!(level.get().expect("lives"), "mesh_proxy::pod=trace,warn");
    }

    #[test]
    fn a_log_that_has_ended_says_so() {
        let (layer, level) = LogLevel::new(EnvFilter::new("info"));
        drop(layer);
        assert!(level.get().is_err() && level.set("debug").is_err());
    }
}
