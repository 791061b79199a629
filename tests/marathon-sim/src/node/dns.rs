//! Each node's resolver at 198.51.100.1, over UDP and TCP, as DC/OS has it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::netns::NetNs;
use super::topology::RESOLVER;

const TTL: u32 = 5;

/// Addresses of a name; `None` is NXDOMAIN.
pub(crate) type Lookup = Arc<dyn Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync>;

pub(crate) fn serve(netns: &NetNs, lookup: &Lookup) -> Result<()> {
    let address = SocketAddr::new(IpAddr::V4(RESOLVER), 53);
    let udp = netns.udp_socket(address)?;
    let tcp = netns.tcp_listener(address)?;
    let names = Arc::clone(lookup);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, from)) = udp.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = answer(&buffer[..length], &names) {
                let _ = udp.send_to(&answer, from).await;
            }
        }
    });
    let names = Arc::clone(lookup);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = tcp.accept().await else { continue };
            tokio::spawn(connection(stream, Arc::clone(&names)));
        }
    });
    Ok(())
}

async fn connection(mut stream: TcpStream, names: Lookup) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = answer(&query, &names) else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}

fn answer(query: &[u8], names: &Lookup) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    let question = query.queries.first()?;
    response.add_query(question.clone());
    match names(&question.name.to_ascii()) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) => {
            for address in addresses {
                let data = match (question.query_type, address) {
                    (RecordType::A, IpAddr::V4(v4)) => RData::A(v4.into()),
                    (RecordType::AAAA, IpAddr::V6(v6)) => RData::AAAA(v6.into()),
                    _ => continue,
                };
                response.add_answer(Record::from_rdata(question.name.clone(), TTL, data));
            }
        }
    }
    response.to_vec().ok()
}
