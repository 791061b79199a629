//! Meshes with a fault each.

use super::*;
use crate::core::compile::tests::reviews;
use crate::core::registry::Locality;

/// `ratings` on 10.0.0.0, `reviews` v1 on 10.0.0.1 and v2 on 10.0.0.0, all wanted.
fn registry() -> Registry {
    let mut registry = reviews(&["v1", "v2"]);
    registry.workloads.values_mut().for_each(|workload| workload.enrol = true);
    registry
}

fn client(role: Role, address: &str, enrolled: &[&str]) -> Client {
    let enrolled = enrolled.iter().map(|app| format!("{app}.instance-1")).collect();
    let report = (role == Role::Agent).then(|| Arc::new(Report { enrolled, ..Report::default() }));
    Client { role, address: address.parse().expect("address"), name: "n".to_owned(), holds: Some(7), refusal: None, report }
}

/// Everything as it should be.
fn clients() -> Vec<Client> {
    let mut clients =
        vec![client(Role::Agent, "10.0.0.0", &["ratings-v1", "reviews-v2"]), client(Role::Agent, "10.0.0.1", &["reviews-v1"])];
    for role in [Role::Node, Role::Dns] {
        clients.extend(["10.0.0.0", "10.0.0.1"].map(|address| client(role, address, &[])));
    }
    clients
}

fn report(client: &mut Client) -> &mut Report {
    Arc::make_mut(client.report.as_mut().expect("an agent's"))
}

fn differences(registry: &Registry, clients: &[Client]) -> Vec<String> {
    Enrolment::new(registry, clients, None, 7).differences()
}

#[test]
fn a_mesh_without_fault_has_no_difference() {
    let enrolment = Enrolment::new(&registry(), &clients(), None, 7);
    assert_eq!((enrolment.counts(), enrolment.differences()), ((3, 3), Vec::new()));
    assert_eq!(enrolment.nodes.iter().map(|node| node.wanted).collect::<Vec<_>>(), [2, 1]);
    let sent = serde_json::to_string(&enrolment).expect("JSON");
    assert_eq!(serde_json::from_str::<Enrolment>(&sent).expect("the same"), enrolment);
}

#[test]
fn who_is_not_enrolled_is_named_with_the_agents_reason() {
    let mut faulty = clients();
    *report(&mut faulty[0]) = Report {
        missing: [("ratings-v1.instance-1".to_owned(), "its port is taken".to_owned())].into(),
        bypassed: ["reviews-v2.instance-1".to_owned()].into(),
        ..Report::default()
    };
    report(&mut faulty[1]).enrolled.clear();
    let expected = [
        "10.0.0.0: ratings-v1.instance-1 (/ratings-v1) is not in the mesh: its port is taken",
        "10.0.0.0: reviews-v2.instance-1 (/reviews-v2) is not in the mesh: taken out by `mesh-agent bypass`",
        "10.0.0.1: reviews-v1.instance-1 (/reviews-v1) is not in the mesh: mesh-agent has not spoken of it yet",
    ];
    assert_eq!(differences(&registry(), &faulty), expected);
    let mut unwanted = registry();
    unwanted.workloads.values_mut().for_each(|workload| workload.enrol = workload.app != "/ratings-v1");
    let said = differences(&unwanted, &clients());
    assert_eq!(said, ["10.0.0.0: ratings-v1.instance-1 is in the mesh, and nobody asks for it"]);
}

#[test]
fn processes_that_are_away_behind_or_refuse_are_named() {
    let mut behind = clients();
    behind[1].holds = Some(6);
    behind[2].holds = None;
    behind[3].refusal = Some("Cluster: x is not supported".to_owned());
    behind.pop();
    let expected = [
        "10.0.0.0: mesh-proxy holds nothing yet, the configuration is version 7",
        "10.0.0.1: mesh-agent holds version 6, the configuration is version 7",
        "10.0.0.1: mesh-proxy refused Cluster: x is not supported",
        "10.0.0.1: no mesh-dns is connected",
    ];
    assert_eq!(differences(&registry(), &behind), expected);
    // A successor is there before its predecessor has gone.
    let mut two = clients();
    two.push(Client { holds: Some(5), ..client(Role::Node, "10.0.0.1", &[]) });
    assert_eq!(differences(&registry(), &two), ["10.0.0.1: mesh-proxy holds version 5, the configuration is version 7"]);
}

#[test]
fn nodes_without_a_mesh_are_listed_whether_or_not_something_runs_there() {
    let agent = |id: &str, host: &str, active| Agent {
        id: id.to_owned(),
        host: host.to_owned(),
        address: host.parse().ok(),
        active,
        place: Locality::default(),
    };
    let named = [("S0", "10.0.0.0", true), ("S1", "10.0.0.1", true), ("S2", "10.0.0.9", true), ("S3", "10.0.0.10", false)];
    let agents = named.map(|(id, host, active)| agent(id, host, active));
    let clients: Vec<_> = clients().into_iter().filter(|client| client.address.to_string() == "10.0.0.0").collect();
    let enrolment = Enrolment::new(&registry(), &clients, Some(&agents), 7);
    let expected = [
        "10.0.0.1: no mesh-agent is connected",
        "10.0.0.1: no mesh-proxy is connected",
        "10.0.0.1: no mesh-dns is connected",
        "10.0.0.1: reviews-v1.instance-1 (/reviews-v1) is not in the mesh: no mesh-agent is connected",
        "10.0.0.9: no mesh-agent is connected",
    ];
    assert_eq!((enrolment.agents_known, enrolment.differences().as_slice()), (true, expected.map(str::to_owned).as_slice()));
    let away = enrolment.nodes.last().and_then(|node| node.mesos_agent.clone());
    assert_eq!(away, Some(MesosAgent { id: "S3".to_owned(), active: false }), "it is shown, and needs nobody");
}

#[test]
fn a_node_that_only_has_a_name_is_the_client_of_that_name() {
    let mut registry = registry();
    registry.workloads.values_mut().filter(|workload| workload.node == "10.0.0.1").for_each(|w| "worker".clone_into(&mut w.node));
    let mut clients = clients();
    for client in clients.iter_mut().filter(|client| client.address.to_string() == "10.0.0.1") {
        "worker".clone_into(&mut client.name);
    }
    let enrolment = Enrolment::new(&registry, &clients, None, 7);
    assert_eq!(enrolment.nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["worker", "10.0.0.0"]);
    assert_eq!(enrolment.differences(), Vec::<String>::new());
}
