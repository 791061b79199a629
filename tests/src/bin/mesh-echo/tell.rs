//! A server over TCP and UDP that says who and where it is, and whom it sees.

use serde_json::json;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

/// Until the process is killed.
pub(crate) fn run(address: IpAddr, port: u16) -> anyhow::Result<()> {
    let (tcp, udp) = (TcpListener::bind((address, port))?, UdpSocket::bind((address, port))?);
    std::thread::spawn(move || datagrams(&udp));
    loop {
        let (mut stream, from) = tcp.accept()?;
        // Short enough for the socket's buffer: nobody can hold the server up.
        let _ = stream.write_all(who(from).as_bytes());
    }
}

fn who(from: SocketAddr) -> String {
    let own = |name: &str| std::env::var(name).unwrap_or_default();
    json!({"task": own("MESOS_TASK_ID"), "node": own("HOST"), "from": from.ip().to_canonical().to_string()}).to_string()
}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        // An error belongs to an earlier answer, whose client is gone.
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(who(from).as_bytes(), from);
        }
    }
}
