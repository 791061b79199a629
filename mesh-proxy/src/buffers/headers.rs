//! Maps of headers that were used, empty and with their room: each message has one, and making it anew costs more than filling it.

use http::HeaderMap;
use std::cell::RefCell;

/// Maps of a thread that wait for their next use, about 1.5 KiB each: both of as many requests as are answered in most turns of a thread.
/// Beyond: freed.
const SPARES: usize = 64;
/// A map with more room than this is not kept: few messages have so many headers.
const ROOM: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map.
#[must_use]
pub fn lend() -> HeaderMap {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives one back, whatever is in it.
pub fn give(mut headers: HeaderMap) {
    if (1..=ROOM).contains(&headers.capacity()) {
        headers.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARES {
                spare.push(headers)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_is_lent_is_empty_and_what_is_large_is_not_kept() {
        let mut headers = HeaderMap::with_capacity(8);
        headers.append("x", HeaderValue::from_static("1"));
        headers.append("x", HeaderValue::from_static("2"));
        let room = headers.capacity();
        give(headers);
        let headers = lend();
        assert_eq!((headers.len(), headers.keys_len(), headers.capacity()), (0, 0, room));
        give(HeaderMap::with_capacity(1000));
        give(HeaderMap::new());
        assert_eq!(lend().capacity(), 0);
    }
}
