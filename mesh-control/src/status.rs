//! `mesh-control status`: asks the running control plane on this machine who is in the mesh, and shows it. Decides nothing
//! (`core::enrolment`).

use crate::ask;
use crate::core::enrolment::{Enrolment, Held, Node};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Only this node: its address, or its name as Marathon has it
    node: Option<String>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Fail, with exit code 1, if something is not as it should be: a wanted workload outside the mesh, a node without mesh-agent, a process
    /// that refused configuration or holds an old one
    #[arg(long)]
    check: bool,
    /// Unix socket of mesh-control serve
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/control-admin.sock")]
    admin_socket: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Output {
    /// A table, and a line for each difference
    #[default]
    Text,
    /// All of it, as GET /status has it under `enrolment`
    Json,
}

/// As much of `GET /status` as is shown.
#[derive(Deserialize)]
struct Answer {
    ready: bool,
    enrolment: Enrolment,
}

/// Shows it; with `--check`, fails if there is a difference.
pub(crate) fn main(args: &StatusArgs) -> Result<ExitCode> {
    let body = ask::control(&args.admin_socket, "/status")?;
    let answer: Answer = serde_json::from_str(&body).context("the answer is of another version of mesh-control")?;
    ensure!(answer.ready, "mesh-control waits for Marathon's first answer: nothing is known yet");
    let mut enrolment = answer.enrolment;
    if let Some(node) = &args.node {
        enrolment.nodes.retain(|other| other.node == *node);
        ensure!(!enrolment.nodes.is_empty(), "no node is called {node}; `mesh-control status` lists them");
    }
    let differences = enrolment.differences();
    let shown = match args.output {
        Output::Text => text(&enrolment, &differences),
        Output::Json => serde_json::to_string_pretty(&enrolment)? + "\n",
    };
    std::io::stdout().write_all(shown.as_bytes())?;
    Ok(if args.check && !differences.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(enrolment: &Enrolment, differences: &[String]) -> String {
    let heads = ["NODE", "MESOS AGENT", "MESH-AGENT", "MESH-PROXY", "MESH-DNS", "WORKLOADS", "WANTED", "ENROLLED"];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(enrolment.nodes.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
    let (wanted, enrolled) = enrolment.counts();
    let _ = writeln!(
        text,
        "\n{enrolled} of {wanted} wanted workloads are in the mesh. The configuration is version {}.",
        enrolment.version
    );
    if !enrolment.agents_known {
        text.push_str("Mesos agents on which nothing runs are not known: mesh-control serve has no --mesos-master.\n");
    }
    for difference in differences {
        let _ = writeln!(text, "- {difference}");
    }
    text
}

fn row(node: &Node) -> [String; 8] {
    let mesos = node.mesos_agent.as_ref().map_or_else(
        || "-".to_owned(),
        |agent| {
            let short = agent.id.rsplit('-').next().unwrap_or_default();
            if agent.active { short.to_owned() } else { format!("{short} (inactive)") }
        },
    );
    let [agent, proxy, dns] = node.processes().map(|(_, held)| match held {
        None => "-".to_owned(),
        Some(Held { refusal: Some(_), .. }) => "refused".to_owned(),
        Some(Held { version: Some(version), .. }) => format!("version {version}"),
        Some(Held { version: None, .. }) => "connected".to_owned(),
    });
    let counts = [node.workloads, node.wanted, node.enrolled].map(|count| count.to_string());
    let [workloads, wanted, enrolled] = counts;
    [node.node.clone(), mesos, agent, proxy, dns, workloads, wanted, enrolled]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::enrolment::{MesosAgent, Missing};

    #[test]
    fn a_table_and_what_is_wrong() {
        let held = |version| Some(Held { version, refusal: None });
        let missing =
            Missing { workload: "web.instance-1".to_owned(), app: "/web".to_owned(), reason: "its port is taken".to_owned() };
        let nodes = vec![
            Node {
                node: "192.0.2.11".to_owned(),
                mesos_agent: Some(MesosAgent { id: "f-1-S0".to_owned(), active: true }),
                agent: held(Some(3)),
                proxy: Some(Held { version: Some(2), refusal: Some("Cluster: x".to_owned()) }),
                dns: held(None),
                workloads: 4,
                wanted: 2,
                enrolled: 1,
                missing: vec![missing],
                ..Node::default()
            },
            Node { node: "192.0.2.12".to_owned(), ..Node::default() },
        ];
        let enrolment = Enrolment { version: 3, agents_known: true, nodes };
        let shown = text(&enrolment, &enrolment.differences());
        let expected = "\
NODE         MESOS AGENT   MESH-AGENT   MESH-PROXY   MESH-DNS    WORKLOADS   WANTED   ENROLLED
192.0.2.11   S0            version 3    refused      connected   4           2        1
192.0.2.12   -             -            -            -           0           0        0

1 of 2 wanted workloads are in the mesh. The configuration is version 3.
- 192.0.2.11: mesh-proxy refused Cluster: x
- 192.0.2.11: mesh-dns holds nothing yet, the configuration is version 3
- 192.0.2.11: web.instance-1 (/web) is not in the mesh: its port is taken
- 192.0.2.12: no mesh-agent is connected
";
        assert_eq!(shown, expected);
        assert!(text(&Enrolment::default(), &[]).contains("--mesos-master"));
    }
}
