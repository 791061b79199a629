//! Walkthrough 3: rules for some clients only. Walkthrough 4: half and half through a Gateway.

use crate::kit::{SOON, apply, count, delete, load, outside, pods, within};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;

pub(crate) const CASES: &[Case] = &[
    ("three::helloworld's versions take turns, under each of its names", turns),
    ("three::a rule for `app: curl` leaves curl1 alone", source_labels),
    ("four::half and half through a Gateway for every host", halves),
];

const NAMES: [&str; 2] = ["http://helloworld:5000/hello", "http://helloworld.default.svc.cluster.local:5000/hello"];

fn versions(world: &World, pod: &str, url: &str, requests: u32) -> Result<(u32, u32)> {
    let counts = load(world, pod, 1, requests, &["--count", "version", url])?;
    ensure!(count(&counts, "200") == requests, "{pod} {url}: {counts:?}");
    Ok((count(&counts, "version: v1"), count(&counts, "version: v2")))
}

fn turns(world: &mut World) -> Result<()> {
    pods(world, &["3/helloworld-v1", "3/helloworld-v2", "3/curl", "3/curl1"])?;
    for pod in ["curl", "curl1"] {
        for url in NAMES {
            eventually("both in turn", SOON, || {
                let seen = versions(world, pod, url, 20)?;
                ensure!(seen == (10, 10), "{pod} {url}: {seen:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn source_labels(world: &mut World) -> Result<()> {
    pods(world, &["3/helloworld-v1", "3/helloworld-v2", "3/curl", "3/curl1"])?;
    apply(world, "3/helloworld")?;
    let see = |world: &World, pod: &str, url: &str, wanted: (u32, u32)| {
        eventually(&format!("{pod} {url}"), SOON, || {
            let seen = versions(world, pod, url, 20)?;
            ensure!(seen == wanted, "{seen:?}, wanted are {wanted:?}");
            Ok(())
        })
    };
    for url in NAMES {
        see(world, "curl", url, (20, 0))?;
        see(world, "curl1", url, (10, 10))?;
    }
    delete(world, "3/helloworld")?;
    see(world, "curl", NAMES[0], (10, 10))
}

fn halves(world: &mut World) -> Result<()> {
    const REQUESTS: u32 = 120;
    pods(world, &["4/myapp-v1", "4/myapp-v2"])?;
    apply(world, "4/app-gateway")?;
    apply(world, "4/myapp")?;
    for node in [1, 2] {
        eventually("the gateway answers", SOON, || {
            let (status, body) = outside(world, node, "any.example.com", "/")?;
            ensure!(status == 200, "{status} {body}");
            Ok(())
        })?;
    }
    let program = world.binaries().join("walkthrough").to_string_lossy().into_owned();
    let requests = REQUESTS.to_string();
    let mut seen = 0;
    for node in ["198.18.0.11", "198.18.0.12"] {
        let url = format!("http://{node}/");
        let output = world.in_namespace("outside", &[&program, "load", "-n", &requests, "--count", "version", &url])?.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains(&format!("Code 200 : {REQUESTS} ")), "{said}");
        let v2 = said.lines().find_map(|line| line.strip_prefix("version: v2 : ")?.parse::<u32>().ok());
        seen += v2.unwrap_or_default();
    }
    within(seen, 2 * REQUESTS, 0.5)?;
    delete(world, "4/myapp")?;
    delete(world, "4/app-gateway")
}
