//! Server-sent events, without I/O: bytes in, events out, however the bytes are cut.
//!
//! Marathon's traps are handled here: lines end in `\r\n`, `\n` or a lone `\r`; its heartbeat is a bare `\r` whose `\n` may come in the
//! next segment; and a line has no limit of its own, so this one gives it one.

/// Longest line that is kept. Events are hints, so a longer one loses nothing but precision: see [`Event::truncated`].
const LINE_LIMIT: usize = 256 * 1024;

/// One event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Event {
    /// The `event:` field.
    pub(crate) kind: String,
    /// The `data:` lines, joined by newlines.
    pub(crate) data: String,
    /// A line was longer than the limit and its rest is missing.
    pub(crate) truncated: bool,
}

/// The parser's state between two reads.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes what was read and appends the events that it completes.
    pub(crate) fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        for &byte in bytes {
            let second_half = byte == b'\n' && std::mem::take(&mut self.after_cr);
            self.after_cr = byte == b'\r';
            match byte {
                b'\n' if second_half => {}
                b'\r' | b'\n' => self.end_of_line(events),
                _ if self.line.len() < LINE_LIMIT => self.line.push(byte),
                _ => self.event.truncated = true,
            }
        }
    }

    fn end_of_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // An event without data is none (WHATWG HTML, section 9.2.6): heartbeats end here.
            if std::mem::take(&mut self.has_data) {
                events.push(event);
            }
            return;
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "data" => self.data(value),
            // Comments, `id` and `retry`: Marathon neither sends nor honours them.
            _ => {}
        }
    }

    /// The limit holds for all data lines of an event together, or many short lines would get round it.
    fn data(&mut self, value: &str) {
        if self.event.data.len() + value.len() > LINE_LIMIT {
            self.event.truncated = true;
        } else {
            if self.has_data {
                self.event.data.push('\n');
            }
            self.event.data.push_str(value);
        }
        self.has_data = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]]) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        chunks.iter().for_each(|chunk| parser.push(chunk, &mut events));
        events
    }

    fn event(kind: &str, data: &str) -> Event {
        Event { kind: kind.to_owned(), data: data.to_owned(), truncated: false }
    }

    #[test]
    fn every_line_ending_and_heartbeats_between() {
        let text = b"event: a\r\ndata: {\"x\":1}\r\n\r\n\r\n\r\revent: b\ndata: 1\ndata: 2\n\n:note\n\nevent:c\rdata\r\r";
        assert_eq!(parse(&[text]), [event("a", "{\"x\":1}"), event("b", "1\n2"), event("c", "")]);
    }

    #[test]
    fn a_heartbeat_cut_in_two_makes_no_event_and_breaks_none() {
        assert_eq!(
            parse(&[b"event: a\r\ndata: 1\r\n", b"\r", b"\n", b"\r", b"\nevent: b\r\ndata: 2\r\n\r", b"\n"]),
            [event("a", "1"), event("b", "2")]
        );
    }

    #[test]
    fn a_line_without_end_is_cut_not_kept() {
        let long = [b"data: ".as_slice(), &vec![b'x'; 2 * LINE_LIMIT], b"\n\n", b"data: y\n\n"].concat();
        let events = parse(&[&long]);
        assert!(events[0].truncated && events[0].data.len() <= LINE_LIMIT);
        assert_eq!(events[1], event("", "y"));
        let many = [b"data: ".as_slice(), &vec![b'x'; 1000], b"\n"].concat().repeat(1000);
        assert!(parse(&[&many, b"\n"])[0].data.len() <= LINE_LIMIT + 1000);
    }

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_gives_the_same_events(
            text in proptest::collection::vec(prop_oneof![
                Just("event: a"), Just("data: {\"k\":\"v\"}"), Just("\r\n"), Just("\n"), Just("\r"), Just(":c"), Just("data:é")
            ], 0..40),
            cuts in proptest::collection::vec(1usize..7, 0..60),
        ) {
            let bytes = text.concat().into_bytes();
            let whole = parse(&[&bytes]);
            let (mut parser, mut events, mut rest) = (Parser::default(), Vec::new(), &bytes[..]);
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                parser.push(head, &mut events);
                rest = tail;
            }
            parser.push(rest, &mut events);
            prop_assert_eq!(events, whole);
        }
    }
}
