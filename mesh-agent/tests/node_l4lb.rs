//! Beside dcos-net's load balancer: both at once, its table against ours, and back. Destination NAT stands for its IPVS, which rewrites at the
//! same place: after connect() has returned the address that the packet is made with.

mod common;

use common::{Mesh, answer, at, tcp};
use mesh_common::abi::mode;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

/// What DC/OS's hash makes of it is [`VIP`].
const NAME: &str = "reviews.marathon.l4lb.thisdcos.directory";
const VIP: &str = "11.15.94.83:9080";
const THEIRS: &str = "9.0.1.1:7001";
const OURS: &str = "9.0.1.1:7002";

/// What stands for dcos-l4lb in the pod's namespace.
fn l4lb(mesh: &Mesh) {
    let rules = "add table ip l4lb; add chain ip l4lb out { type nat hook output priority -100; }; \
        add rule ip l4lb out ip daddr 11.15.94.83 tcp dport 9080 dnat to 9.0.1.1:7001";
    common::sh("ip", &["netns", "exec", &mesh.pair.pod.name, "nft", rules]);
}

/// Answers every request with this, as dcos-net's own server does.
fn serve(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let to = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).expect("asked");
            let found = buffer[..length].starts_with(b"GET /v1/vips HTTP/1.");
            let (status, body) = if found { ("200 OK", body.as_str()) } else { ("404 Not Found", "") };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        }
    });
    to
}

fn compare(mesh: &Mesh, url: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    command.args(["compare-l4lb", "--url", url, "--admin-socket", "/nonexistent"]).args(more);
    command.arg("--bpffs").arg(&mesh.node.bpffs).output().expect("starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn beside_dcos_l4lb_connect_wins_and_without_the_mesh_it_serves_again() {
    let mesh = Mesh::new();
    for backend in [THEIRS, OURS] {
        answer(mesh.pair.world.run(|| TcpListener::bind(at(backend)).expect("bound")), backend);
    }
    l4lb(&mesh);
    let by = || mesh.ask(VIP).map(|(text, ..)| text.split(' ').next().unwrap_or_default().to_owned()).expect("served");
    mesh.fill(&[(tcp(VIP), mode::KERNEL, &[OURS])], &["9.0.1.1"], &[]);
    assert_eq!(by(), OURS, "connect() comes first: what is rewritten there is no VIP any more");
    // Back: the mesh leaves the VIP alone, and dcos-l4lb was there all the time.
    mesh_agent::pod::leave(&mesh.kernel, mesh.cookie, &mesh.pod).expect("leaves");
    mesh.kernel.detach().expect("detaches");
    let start = std::time::Instant::now();
    while by() != THEIRS {
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "dcos-l4lb serves when the mesh is gone");
    }
}

#[test]
fn the_tables_are_compared_by_name() {
    let mesh = Mesh::new();
    mesh.fill(&[(tcp(VIP), mode::KERNEL, &[OURS]), (tcp("11.7.7.7:80"), mode::KERNEL, &[OURS])], &["9.0.1.1"], &[]);
    let vips = |backend: &str| {
        let (ip, port) = backend.split_once(':').expect("a port");
        format!(r#"[{{"vip":"{NAME}:9080","protocol":"tcp","backend":[{{"ip":"{ip}","port":{port}}}]}}]"#)
    };
    let same = compare(&mesh, &format!("http://{}/v1/vips", serve(vips(OURS))), &[]);
    assert!(same.status.success(), "{}", text(&same.stderr));
    assert_eq!(text(&same.stdout), "tcp://11.7.7.7:80  only the mesh has it\n1 the same, 0 differ, 1 only the mesh's\n");

    let url = format!("http://{}/v1/vips", serve(vips(THEIRS)));
    let other = compare(&mesh, &url, &[]);
    assert!(!other.status.success(), "a script must notice");
    let line = format!("tcp://{NAME}:9080  only dcos-net sends to {THEIRS}, only the mesh sends to {OURS}\n");
    assert!(text(&other.stdout).contains(&line), "{}", text(&other.stdout));
    let json = text(&compare(&mesh, &url, &["--json"]).stdout);
    assert!(json.contains(r#""only_dcos_net": ["#), "{json}");

    let nobody = compare(&mesh, "http://127.0.0.1:1/v1/vips", &[]);
    assert!(!nobody.status.success() && text(&nobody.stderr).contains("Does dcos-net run"), "{}", text(&nobody.stderr));
}
