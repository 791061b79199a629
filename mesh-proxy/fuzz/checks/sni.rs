//! ClientHello parsing: no bytes make it panic, the answer does not depend on how the bytes were cut, and what rustls takes for
//! a ClientHello too has the same name and protocols for both. A difference would let a client name one host to the route and another to the server.

use mesh_proxy::core::sni::{HELLO_BYTES, Parsed, parse};
use rustls::server::Acceptor;

/// Prefixes tried of each input; its own length decides which, so that all are reached.
const CUTS: usize = 2;

/// Panics if the parser is wrong about these bytes: taken as they come if the first is 0, else the rest is a message that is cut into records
/// of so many bytes.
pub(crate) fn check(input: &[u8]) {
    let Some((size, rest)) = input.split_first() else { return };
    match usize::from(*size) {
        0 => judge(rest),
        size => {
            let record = |part: &[u8]| [&[22, 3, 1, 0, part.len() as u8], part].concat();
            judge(&rest.chunks(size).flat_map(record).collect::<Vec<u8>>());
        }
    }
}

fn judge(bytes: &[u8]) {
    let whole = parse(bytes);
    assert!(whole != Parsed::More || bytes.len() < HELLO_BYTES, "waits for ever");
    for cut in 1..=CUTS {
        let prefix = &bytes[..bytes.len() * cut / (CUTS + 1)];
        let early = parse(prefix);
        assert!(early == Parsed::More || early == whole, "{early:?} after {} bytes became {whole:?}", prefix.len());
    }
    let Some((name, protocols)) = oracle(bytes) else { return };
    // rustls skips what follows the first name of a list; we, as BoringSSL and so Envoy, take such a list for none.
    let Parsed::Hello { server_name, protocols: ours } = whole else {
        assert_eq!(whole, Parsed::Other, "rustls reads a ClientHello");
        return;
    };
    assert!(name.is_none() || server_name == name, "rustls reads {name:?}, we {server_name:?}");
    assert_eq!(ours, protocols);
}

/// What rustls reads, if it takes the bytes for a ClientHello.
fn oracle(bytes: &[u8]) -> Option<(Option<String>, Vec<String>)> {
    // Most inputs are no ClientHello: rustls need not be asked.
    if bytes.len() < 44 || bytes[0] != 22 {
        return None;
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(str::to_ascii_lowercase);
            let protocols = hello.alpn().into_iter().flatten().filter_map(|name| String::from_utf8(name.to_vec()).ok());
            return Some((name, protocols.collect()));
        }
    }
    None
}
