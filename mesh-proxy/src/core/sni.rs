//! Reads a TLS ClientHello far enough to know the server name (SNI) and the protocols (ALPN) that a client asks for. Own code rather than a
//! TLS library's: what passes through is not ours to judge, so a hello is taken whatever versions, ciphers and extensions it has.

/// Longest ClientHello, records' headers included, as in Envoy. What is longer is refused.
pub const HELLO_BYTES: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u16 = 16;
/// Longest DNS name.
const NAME_BYTES: usize = 255;

/// What the first bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// The beginning of a ClientHello, perhaps.
    More,
    /// No ClientHello: it goes on as plain bytes.
    Other,
    /// A ClientHello that is longer than [`HELLO_BYTES`].
    TooLong,
    /// A ClientHello.
    Hello {
        /// SNI, in lower case.
        server_name: Option<String>,
        /// ALPN, in the client's order. What is no text is left out.
        protocols: Vec<String>,
    },
}

/// Reads the first bytes of a connection. A ClientHello may be spread over several records.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if !starts_record(rest) {
            return Parsed::Other;
        }
        let Some((header, behind)) = rest.split_at_checked(5) else { return more(bytes) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 {
            return Parsed::Other;
        }
        let here = &behind[..length.min(behind.len())];
        message.extend_from_slice(here);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Parsed::Other;
        }
        if let Some(&[_, a, b, c]) = message.first_chunk() {
            let wanted = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if wanted > HELLO_BYTES {
                return Parsed::TooLong;
            }
            if message.len() >= wanted {
                return hello(&message[4..wanted]).unwrap_or(Parsed::Other);
            }
        }
        if here.len() < length {
            return more(bytes);
        }
        rest = &behind[length..];
    }
}

fn more(bytes: &[u8]) -> Parsed {
    if bytes.len() >= HELLO_BYTES { Parsed::TooLong } else { Parsed::More }
}

/// As far as there are bytes: a handshake of SSL 3.0 or TLS.
fn starts_record(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|kind| *kind == HANDSHAKE) && bytes.get(1).is_none_or(|major| *major == 3)
}

/// The body of a ClientHello; `None` if it is none.
fn hello(body: &[u8]) -> Option<Parsed> {
    let mut body = Reader(body);
    // Version and random.
    body.take(34)?;
    // Session id, cipher suites, compression methods.
    body.vector8()?;
    body.vector16()?;
    body.vector8()?;
    let (mut server_name, mut protocols) = (None, Vec::new());
    // TLS 1.2 without extensions ends here.
    let mut extensions = if body.0.is_empty() { Reader(&[]) } else { body.vector16()? };
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let mut content = extensions.vector16()?;
        match kind {
            SERVER_NAME => {
                let mut names = content.vector16()?;
                while !names.0.is_empty() {
                    let [kind] = *names.take(1)? else { return None };
                    let name = names.vector16()?.0;
                    if kind == HOST_NAME && server_name.is_none() && (1..=NAME_BYTES).contains(&name.len()) {
                        server_name = std::str::from_utf8(name).ok().map(str::to_ascii_lowercase);
                    }
                }
            }
            ALPN => {
                let mut names = content.vector16()?;
                while !names.0.is_empty() {
                    let name = names.vector8()?.0;
                    protocols.extend(std::str::from_utf8(name).ok().map(str::to_owned));
                }
            }
            _ => {}
        }
    }
    Some(Parsed::Hello { server_name, protocols })
}

/// Reads from the front; `None` when there is too little.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length).map(Self)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = usize::from(self.number()?);
        self.take(length).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// As rustls writes it.
    fn written(name: &'static str, protocols: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.expect("versions").with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name.try_into().expect("a name")).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    }

    /// The same message, cut into records of this size.
    fn cut(bytes: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        bytes[5..].chunks(size).flat_map(record).collect()
    }

    fn said(name: Option<&str>, protocols: &[&str]) -> Parsed {
        let protocols = protocols.iter().map(|protocol| (*protocol).to_owned()).collect();
        Parsed::Hello { server_name: name.map(str::to_owned), protocols }
    }

    #[test]
    fn name_and_protocols_are_found_however_the_hello_is_cut() {
        let bytes = written("WWW.Example.com", &["h2", "http/1.1"]);
        for bytes in [bytes.clone(), cut(&bytes, 50), cut(&bytes, 1)] {
            for length in 0..bytes.len() {
                assert_eq!(parse(&bytes[..length]), Parsed::More, "{length} of {}", bytes.len());
            }
            assert_eq!(parse(&bytes), said(Some("www.example.com"), &["h2", "http/1.1"]));
            assert_eq!(parse(&[&bytes[..], b"more"].concat()), said(Some("www.example.com"), &["h2", "http/1.1"]));
        }
        // An address is no name.
        assert_eq!(parse(&written("192.0.2.1", &[])), said(None, &[]));
    }

    #[test]
    fn a_hello_without_extensions_is_one() {
        let body = [&[3, 3][..], &[0; 32], &[0], &[0, 2, 0, 47], &[1, 0]].concat();
        let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
        let record = [&[22, 3, 1, 0, message.len() as u8][..], &message].concat();
        assert_eq!(parse(&record), said(None, &[]));
        let mut short = record.clone();
        // The message says that it is shorter than its own content.
        short[8] = 20;
        assert_eq!(parse(&short), Parsed::Other);
    }

    #[test]
    fn other_bytes_are_told_at_once_and_length_is_bounded() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\x05\x02", b"\x15\x03\x01"] {
            assert_eq!(parse(bytes), Parsed::Other, "{}", bytes.escape_ascii());
        }
        assert_eq!(parse(b"\x16\x03\x01\0\x04\x01\x01\0\0"), Parsed::TooLong);
        // One byte a record: the message is short, but what would have to be kept is not.
        let endless: Vec<u8> = [22, 3, 1, 0, 1, 1].into_iter().chain([22, 3, 1, 0, 1, 0].repeat(HELLO_BYTES / 6)).collect();
        assert_ne!(parse(&endless[..HELLO_BYTES]), Parsed::More);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_it_decides_in_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..600, value: u8) {
            let _ = parse(&bytes);
            let mut hello = written("a.example", &["h2"]);
            let at = at % hello.len();
            hello[at] = value;
            let _ = parse(&hello);
            hello.resize(HELLO_BYTES, 0);
            prop_assert_ne!(parse(&hello), Parsed::More);
        }
    }
}
