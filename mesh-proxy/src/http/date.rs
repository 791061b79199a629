//! The value of `date`: made once a second on each thread.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    /// The second, and its text.
    static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Lends it.
pub(super) fn with<T>(now: SystemTime, work: impl FnOnce(&str) -> T) -> T {
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|last| {
        if last.0 != second || last.1.is_empty() {
            *last = (second, text(now));
        }
        work(&last.1)
    })
}

/// RFC 9110, 5.6.7.
fn text(now: SystemTime) -> String {
    // A clock beyond what dates can say says the first of them.
    let now = jiff::Timestamp::try_from(now).unwrap_or_default();
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_what_http_has_and_follow_the_clock() {
        for (seconds, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            with(UNIX_EPOCH + Duration::from_secs(seconds), |date| assert_eq!(date, expected));
        }
    }
}
