//! Runs cases one after another on one mesh, with libtest's command line and its closing line.

use crate::world::World;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// What is claimed, and how it is shown.
pub type Case = (&'static str, fn(&mut World) -> anyhow::Result<()>);

/// Brings a mesh up, runs the cases, ends the mesh. There is no Zipkin: nothing is traced.
#[must_use]
pub fn run(groups: &[&[Case]]) -> ExitCode {
    run_with(&["--no-zipkin"], groups)
}

/// The same with options of `xtask bookinfo`.
#[must_use]
pub fn run_with(options: &[&str], groups: &[&[Case]]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases share a mesh, and some of them break it for a moment.
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(groups, None)).exit_code();
    }
    let world = match World::start(options) {
        Ok(world) => Arc::new(Mutex::new(world)),
        Err(error) => {
            let failed =
                Trial::test("the newcomer's command brings the mesh up", move || Err(Failed::from(format!("{error:#}"))));
            arguments.filter = None;
            return libtest_mimic::run(&arguments, vec![failed]).exit_code();
        }
    };
    libtest_mimic::run(&arguments, trials(groups, Some(&world))).exit_code()
}

fn trials(groups: &[&[Case]], world: Option<&Arc<Mutex<World>>>) -> Vec<Trial> {
    let trial = |(name, case): &Case| {
        let (case, world) = (*case, world.cloned());
        Trial::test(*name, move || {
            let Some(world) = world else { return Ok(()) };
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            case(&mut world).map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    groups.iter().copied().flatten().map(trial).collect()
}
