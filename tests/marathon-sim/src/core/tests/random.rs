//! Random interleavings of launches, deaths, health reports, clean-ups and changes: at every step the capacities hold, and at the end all is as wanted.

use std::collections::BTreeSet;

use super::*;
use crate::core::instance::{Instance, State};
use crate::core::upgrade::bounds;

/// Numbers from a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `n`.
    pub(super) fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n.max(1) as u64).unwrap()
    }
}

fn step(sim: &mut Sim, dice: &mut Dice) {
    match dice.roll(7) {
        6 if !sim.probes.is_empty() => {
            let index = dice.roll(sim.probes.len());
            let attempt = sim.probes.remove(index);
            let result = if dice.roll(4) == 0 { Err("bad luck".to_owned()) } else { Ok(()) };
            sim.event(Event::Probed { task: attempt.task, check: attempt.check, result });
        }
        0 | 1 if !sim.launches.is_empty() => {
            let index = dice.roll(sim.launches.len());
            sim.run_one(index);
        }
        2 | 3 if !sim.done.is_empty() => {
            let index = dice.roll(sim.done.len());
            sim.obey_one(index);
        }
        4 if dice.roll(4) == 0 => {
            let tasks: Vec<String> = sim.core.instances_of("/a").flat_map(|i| &i.tasks).map(|t| t.id.clone()).collect();
            if let Some(task) = tasks.get(dice.roll(tasks.len())) {
                sim.launches.retain(|l| l.tasks[0].0.id != *task);
                sim.exit(task, Outcome::Code(1));
            }
        }
        _ => sim.advance(i64::try_from(dice.roll(700)).unwrap()),
    }
}

fn ready(sim: &Sim) -> BTreeSet<String> {
    sim.core.instances_of("/a").filter(|i| i.is_ready()).map(|i| i.id.clone()).collect()
}

/// No decision of the core, as opposed to a death, takes more than the strategy allows.
fn check(sim: &Sim, before: &BTreeSet<String>, what: &str) {
    let limits = bounds(sim.core.spec("/a", Kind::App).unwrap());
    let decided = |i: &Instance| i.tasks.iter().any(|t| t.state == State::Killing) && i.tasks[0].alive() != Some(false);
    let stopped = |i: &Instance| i.stopping && before.contains(&i.id) && decided(i);
    let stopped = sim.core.instances_of("/a").any(stopped);
    let after = ready(sim).len();
    assert!(!stopped || after >= limits.ready, "{what}: {after} ready, {limits:?}");
    let all = sim.ids("/a").len();
    assert!(all <= limits.exist, "{what}: {all} exist, {limits:?}");
}

#[test]
fn capacities_hold_at_every_step() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let (n, parts) = (1 + dice.roll(5), [0.0, 0.25, 0.5, 0.75, 1.0]);
        let (minimum, over) = (parts[dice.roll(5)], parts[dice.roll(5)]);
        let unique = dice.roll(3) == 0 && over == 0.0 && minimum < 0.75;
        let checked = dice.roll(2) == 0;
        let definition = |version: usize| {
            let mut raw = sleeper("/a", n);
            raw["upgradeStrategy"] = json!({"minimumHealthCapacity": minimum, "maximumOverCapacity": over});
            raw["env"] = json!({"VERSION": version.to_string()});
            if checked {
                raw["healthChecks"] = json!([{"protocol": "COMMAND", "command": {"value": "x"}, "delaySeconds": 0.2,
                    "gracePeriodSeconds": 1, "intervalSeconds": 0.5, "maxConsecutiveFailures": 2}]);
            }
            if unique {
                raw["constraints"] = json!([["hostname", "UNIQUE"]]);
            }
            app(raw)
        };
        let mut sim = Sim::new(5);
        sim.apply(Command::Create(definition(0))).unwrap();
        sim.run();
        for version in 1..4 {
            let what = format!("seed {seed}, {n} instances, {minimum}/{over}, version {version}");
            let mut before = ready(&sim);
            sim.apply_with(Command::Update(definition(version)), true).unwrap();
            for _ in 0..dice.roll(60) {
                check(&sim, &before, &what);
                before = ready(&sim);
                step(&mut sim, &mut dice);
            }
        }
        for _ in 0..40 {
            sim.advance(11_000);
            let before = ready(&sim);
            sim.run();
            check(&sim, &before, "at the end");
            sim.answer(&Ok(()));
            sim.obey();
        }
        let story = format!("seed {seed}: {n} instances, {minimum}/{over}, unique {unique}, checked {checked}");
        assert!(sim.core.deployments.is_empty() && sim.ready("/a") == n && sim.ids("/a").len() == n, "{story}");
        assert!(sim.core.instances_of("/a").all(|i| i.spec.containers[0].env["VERSION"] == "3"), "{story}");
    }
}
