//! The access log's way out: worker threads add lines to one buffer, one thread writes it to standard output. A reader that is slow or gone
//! costs lines, which are counted, and never a request's time.

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of lines that wait for the writer: some ten thousand lines, a fraction of a second at full load. Beyond: lost, counted.
const BUFFER: usize = 4 * 1024 * 1024;
/// The writer is woken early at so many bytes, as Envoy's buffer of a file is flushed.
const FLUSH: usize = 64 * 1024;
/// A line waits at most this long.
const PAUSE: Duration = Duration::from_millis(250);

/// See the module. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    queue: Arc<Queue>,
    /// Lines that found the buffer full.
    pub lost: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// The writer is in the midst of writing.
    busy: bool,
    /// No line comes any more.
    ended: bool,
}

impl Log {
    /// Adds a line, which ends with its line's end.
    pub fn line(&self, line: &str) {
        let mut state = self.queue.state.lock();
        if state.buffer.len() + line.len() > BUFFER {
            drop(state);
            self.lost.inc();
            return;
        }
        let before = state.buffer.len();
        state.buffer.extend_from_slice(line.as_bytes());
        if before < FLUSH && state.buffer.len() >= FLUSH {
            self.queue.wake.notify_all();
        }
    }

    /// Starts the thread that writes. It ends with [`Self::end`], or when nobody reads any more.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(&self, out: impl Write + Send + 'static) -> std::io::Result<()> {
        let log = self.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || log.write(out)).map(drop)
    }

    fn write(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let ended = {
                let mut state = self.queue.state.lock();
                state.busy = false;
                self.queue.wake.notify_all();
                if !state.ended && state.buffer.len() < FLUSH {
                    self.queue.wake.wait_for(&mut state, PAUSE);
                }
                std::mem::swap(&mut lines, &mut state.buffer);
                state.busy = !lines.is_empty();
                state.ended && lines.is_empty()
            };
            if ended {
                return;
            }
            if let Err(error) = out.write_all(&lines).and_then(|()| out.flush()) {
                // Lines fill the buffer from now on and are counted as lost.
                tracing::error!(%error, "the access log cannot be written any more");
                self.queue.state.lock().busy = false;
                return;
            }
            lines.clear();
        }
    }

    /// Writes what is there, for at most `limit`.
    pub fn end(&self, limit: Duration) {
        let mut state = self.queue.state.lock();
        state.ended = true;
        self.queue.wake.notify_all();
        let more = |state: &mut State| state.busy || !state.buffer.is_empty();
        self.queue.wake.wait_while_for(&mut state, more, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Slow(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Blocks until it is let go, and never again once the other end is gone.
            let _ = self.0.recv();
            self.1.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_reader_costs_lines_and_no_time_and_the_end_writes_the_rest() {
        let (log, written) = (Log::default(), Arc::new(Mutex::new(Vec::new())));
        let (go, gate) = mpsc::channel();
        log.start(Slow(gate, Arc::clone(&written))).expect("a thread");
        let line = "x".repeat(1023) + "\n";
        // Twice what fits, while nothing is read: at most one buffer is with the writer and one is full.
        for _ in 0..3 * BUFFER / 1024 {
            log.line(&line);
        }
        let lost = log.lost.get();
        assert!(lost >= (BUFFER / 1024) as u64, "{lost}");
        drop(go);
        log.end(Duration::from_secs(20));
        let written = written.lock();
        assert_eq!(written.len() as u64 / 1024 + lost, 3 * BUFFER as u64 / 1024, "each line is written or counted");
        assert!(written.ends_with(b"x\n"));
    }
}
