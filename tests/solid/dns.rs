//! The DNS process away: names wait for it, and nothing else does.

use crate::node;
use crate::restarts::{pids, ready, set_instances};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::load::Load;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("dns::kill -9 of mesh-dns: names are answered by the next one, which Marathon starts, and no request fails", killed),
    ("dns::without mesh-dns names wait, known addresses go on in every mode, and policy holds", gone),
];

fn killed(world: &mut World) -> Result<()> {
    let vip = node::vip(world, "productpage", "details")?;
    let known = [vip.as_str(), "9080", "/details/0"];
    let kept = Load::start(world, "productpage", ["details", "9080", "/details/0"], 200, &["--connections", "4"])?;
    let known = Load::start(world, "productpage", known, 50, &["--connections", "4", "--fresh"])?;
    let named = Load::start(world, "productpage", ["details", "9080", "/details/0"], 200, &["--connections", "8", "--fresh"])?;
    let before = pids(world, "/mesh-dns")?;
    for pid in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    eventually("Marathon starts them again", Duration::from_secs(30), || {
        let now = pids(world, "/mesh-dns")?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        ready(world, "dns")
    })?;
    // A name that is asked for now is answered by the new one.
    ensure!(node::vip(world, "reviews-v1", "details")? == vip);
    kept.until_requests(1000);
    kept.finish_without_failure(500)?;
    known.finish_without_failure(100)?;
    named.finish_without_failure(300).map(drop)
}

fn gone(world: &mut World) -> Result<()> {
    crate::kernel::started(world)?;
    let (details, redis) = (node::vip(world, "productpage", "details")?, node::vip(world, "productpage", "redis")?);
    let kept = Load::start(world, "productpage", ["details", "9080", "/details/0"], 100, &["--connections", "4"])?;
    set_instances(world, "mesh-dns", 0)?;
    // The agent holds the socket that was asked, so the question is not lost but waits, or the resolver asks again.
    let lookup = ["env", "RES_OPTIONS=attempts:5", "getent", "ahostsv4", "reviews"];
    let mut waiting = world.exec_command("productpage", &lookup)?.spawn()?;
    let proxied = Load::start(world, "productpage", [details.as_str(), "9080", "/details/0"], 50, &["--fresh"])?;
    let kernel = (0..20).try_for_each(|_| world.exec("productpage", &["redis-cli", "-h", &redis, "ping"]).map(drop));
    let denied = world.echo("productpage", &["dial", "203.0.113.10:80"])?;
    proxied.until_requests(100);
    let (proxied, early) = (proxied.finish_without_failure(50), waiting.try_wait()?);
    set_instances(world, "mesh-dns", 2)?;
    let answer = waiting.wait_with_output()?;
    kernel?;
    proxied?;
    kept.finish_without_failure(100)?;
    ensure!(denied["ok"] == false && denied["micros"].as_u64().is_some_and(|m| m < 500_000), "{denied}");
    ensure!(early.is_none(), "a name was answered without mesh-dns: {early:?}");
    ensure!(answer.status.success() && answer.stdout.starts_with(b"11."), "the name that waited got {answer:?}");
    Ok(())
}
