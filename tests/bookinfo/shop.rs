//! The shop itself: paths, answers, page, turns.

use super::Case;
use anyhow::{Result, ensure};
use mesh_tests::world::World;
use serde_json::Value;
use std::collections::BTreeSet;

pub(crate) const CASES: &[Case] = &[
    ("shop::the page shows book, reviews and who served them", the_page),
    ("shop::every json answer names its instance and version", answers_name_their_instance),
    ("shop::the three versions of reviews take turns", versions_take_turns),
    ("shop::pods run on both nodes and reach each other across", both_nodes),
    ("shop::exec passes stdin and exit codes through", exec_passes_through),
];

fn the_page(world: &mut World) -> Result<()> {
    let (status, page) = world.browse(&[&world.page])?;
    ensure!(status == 200, "{status}");
    for text in ["The Comedy of Errors", "reviews-v", "details"] {
        ensure!(page.contains(text), "no {text:?} in the page:\n{page}");
    }
    Ok(())
}

fn answers_name_their_instance(world: &mut World) -> Result<()> {
    for (service, version) in [("details", "v1"), ("ratings", "v1"), ("reviews", "v")] {
        let (status, body) = world.curl("productpage", &[&format!("http://{service}:9080/{service}/0")])?;
        ensure!(status == 200, "{service}: {status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let pod = answer["podname"].as_str().unwrap_or_default();
        ensure!(pod.starts_with(service), "{service}: podname {pod:?}");
        ensure!(answer["version"].as_str().is_some_and(|v| v.starts_with(version)), "{service}: {body}");
    }
    Ok(())
}

fn versions_take_turns(world: &mut World) -> Result<()> {
    for pod in ["productpage", "details"] {
        let seen =
            world.echo(pod, &["count", "reviews.marathon.l4lb.thisdcos.directory", "9080", "/reviews/0", "30", "version"])?;
        for version in ["v1", "v2", "v3"] {
            ensure!(seen[version] == 10, "{pod} saw {seen}");
        }
    }
    Ok(())
}

fn both_nodes(world: &mut World) -> Result<()> {
    let mut nodes = BTreeSet::new();
    for pod in ["/productpage", "/details", "/ratings", "/reviews-v1", "/reviews-v2", "/reviews-v3"] {
        let instance = &world.instances_of(pod)?[0];
        nodes.insert(instance["node"].as_str().unwrap_or_default().to_owned());
        for service in ["details", "ratings", "productpage"] {
            let path = if service == "productpage" { "health".to_owned() } else { format!("{service}/0") };
            let (status, body) = world.curl(pod, &[&format!("http://{service}:9080/{path}")])?;
            ensure!(status == 200, "{pod} to {service}: {status} {body}");
        }
    }
    ensure!(nodes.len() == 2, "all pods on {nodes:?}");
    Ok(())
}

fn exec_passes_through(world: &mut World) -> Result<()> {
    let output = world.try_exec("reviews-v2", &["sh", "-c", "exit 7"])?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    let mut cat = world.exec_command("reviews-v2", &["cat"])?;
    let mut cat = cat.stdin(std::process::Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut cat.stdin.take().expect("piped"), b"hello")?;
    let output = cat.wait_with_output()?;
    ensure!(output.stdout == b"hello", "{output:?}");
    let missing = world.try_exec("no-such-pod", &["true"])?;
    ensure!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("no-such-pod"), "{missing:?}");
    Ok(())
}
