//! What connections in kernel mode come to, as Prometheus reads it from the real binary.

mod common;

use common::at;
use common::scene::{Scene, service, wait};
use mesh_xds::agent as wire;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// The value of a metric that has these labels; 0 if it is not there.
fn value(metrics: &str, name: &str, labels: &str) -> f64 {
    let start = format!("mesh_agent_{name}_total{{{labels}}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&start)).map_or(0.0, |text| text.parse().expect("a number"))
}

#[test]
fn connections_bytes_round_trips_and_failures_are_counted_by_workload_and_service() {
    let mut scene = Scene::new();
    scene.run_container("c1");
    let backend = scene.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound"));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = backend.accept() {
            let mut question = [0; 100];
            stream.read_exact(&mut question).expect("asked");
            stream.write_all(&[0; 3000]).expect("answers");
            // Until the client has read it and closes first, so that nothing is cut.
            let _ = stream.read(&mut question);
        }
    });
    let shop = service("shop", "11.1.2.3", wire::Mode::Kernel, "9.0.1.1:8080");
    let gone = service("gone", "11.1.2.4", wire::Mode::Kernel, "9.0.1.1:9");
    scene.control.publish("1", &[scene.workload()], &[shop, gone]);
    scene.start(&[]);
    scene.wait_ready();
    let workload = scene.workload().app;
    let ask = || {
        scene.pair.pod.run(|| {
            let mut stream = TcpStream::connect(at("11.1.2.3:80")).expect("served");
            stream.write_all(&[0; 100]).expect("asks");
            stream.read_exact(&mut [0; 3000]).expect("answered");
        });
    };
    for _ in 0..3 {
        ask();
    }
    scene.pair.pod.run(|| TcpStream::connect(at("11.1.2.4:80")).expect_err("nobody listens"));

    let (shop, gone) = (
        format!(r#"workload="{workload}",service="shop",port="80""#),
        format!(r#"workload="{workload}",service="gone",port="80""#),
    );
    wait("the ends of three connections", || {
        let metrics = scene.get("/metrics").1;
        value(&metrics, "edge_connections_closed", &shop) == 3.0
    });
    let metrics = scene.get("/metrics").1;
    for (name, labels, want) in [
        ("edge_connections_opened", &shop, 3.0_f64),
        ("edge_connections_failed", &shop, 0.0),
        ("edge_sent_bytes", &shop, 300.0),
        ("edge_received_bytes", &shop, 9000.0),
        ("edge_connections_opened", &gone, 0.0),
        ("edge_connections_failed", &gone, 1.0),
    ] {
        let found = value(&metrics, name, labels);
        // TCP counts SYN and FIN among the bytes that are acknowledged or received.
        assert!((want..=want + 2.0 * 3.0 * want.signum()).contains(&found), "{name} {labels}: {found}, not {want}\n{metrics}");
    }
    for (map, entries) in [("SERVICES", 2), ("BACKENDS", 2), ("PODS_BY_NETNS", 1)] {
        // Pods are counted when the agent looks at them the next time.
        let line = format!("mesh_agent_map_entries{{map=\"{map}\"}} {entries}\n");
        wait(&line, || scene.get("/metrics").1.contains(&line));
    }
    assert!(metrics.contains("mesh_agent_map_capacity{map=\"SERVICES\"} 65536\n"), "{metrics}");
    let rtt = value(&metrics, "edge_rtt_seconds", &shop);
    assert!(rtt > 0.0 && rtt < 3.0, "{rtt}");
}
