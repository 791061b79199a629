//! Bookinfo through the mesh: each claim of the README, shown on the real binaries on two simulated nodes. One mesh serves all tests, which
//! run one after another; each leaves no rule behind.

mod names;
mod rules;
mod safety;
mod shop;
mod who;

use libtest_mimic::{Arguments, Failed, Trial};
use mesh_tests::world::World;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

type Case = (&'static str, fn(&mut World) -> anyhow::Result<()>);

const CASES: &[&[Case]] = &[shop::CASES, names::CASES, rules::CASES, who::CASES, safety::CASES];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let world = match World::start() {
        Ok(world) => Arc::new(Mutex::new(world)),
        Err(error) => {
            let failed =
                Trial::test("the newcomer's command brings the mesh up", move || Err(Failed::from(format!("{error:#}"))));
            arguments.filter = None;
            return libtest_mimic::run(&arguments, vec![failed]).exit_code();
        }
    };
    libtest_mimic::run(&arguments, trials(Some(&world))).exit_code()
}

fn trials(world: Option<&Arc<Mutex<World>>>) -> Vec<Trial> {
    let trial = |(name, case): &Case| {
        let (case, world) = (*case, world.cloned());
        Trial::test(*name, move || {
            let Some(world) = world else { return Ok(()) };
            let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            case(&mut world).map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    CASES.iter().copied().flatten().map(trial).collect()
}
