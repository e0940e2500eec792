use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::{log_lines_lost, lose_log_line};

const ROOM_POLL: Duration = Duration::from_millis(5);

enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Takes lines without waiting; a thread writes them. A line that finds no room is lost and counted.
#[derive(Clone)]
pub(super) struct Sink(SyncSender<Entry>);

/// Waits, when dropped, until what was logged is written, for `log.flush_timeout` at most.
pub struct Flush {
    entries: SyncSender<Entry>,
    timeout: Duration,
}

impl Sink {
    /// A sink for the standard error output with room for so many lines.
    pub(super) fn stderr(lines: usize, timeout: Duration) -> (Self, Flush) {
        Self::open(lines, timeout, io::stderr())
    }

    fn open(lines: usize, timeout: Duration, out: impl Write + Send + 'static) -> (Self, Flush) {
        let (sender, entries) = sync_channel(lines);
        let spawned = std::thread::Builder::new().name("log".into()).spawn(move || write(&entries, out));
        if spawned.is_err() {
            lose_log_line();
        }
        (Self(sender.clone()), Flush { entries: sender, timeout })
    }
}

fn write(entries: &Receiver<Entry>, mut out: impl Write) {
    let mut told = 0;
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => {
                if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                    lose_log_line();
                    continue;
                }
                let lost = log_lines_lost();
                if lost > told {
                    told = lost;
                    tracing::warn!(lost, "log lines could not be written");
                }
            }
            Entry::Flush(done) => drop(done),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Entry::Line(one_line(text))).is_err() {
            lose_log_line();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What came from outside cannot begin a line of its own.
fn one_line(text: &[u8]) -> Vec<u8> {
    let Some((b'\n', line)) = text.split_last() else { return text.to_vec() };
    if !line.contains(&b'\n') {
        return text.to_vec();
    }
    let mut escaped = line.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\\n"[..]);
    escaped.push(b'\n');
    escaped
}

impl Drop for Flush {
    fn drop(&mut self) {
        let deadline = Instant::now() + self.timeout;
        let (done, written) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(refused)) = self.entries.try_send(entry) {
            if Instant::now() >= deadline {
                return;
            }
            entry = refused;
            std::thread::sleep(ROOM_POLL);
        }
        if written.recv_timeout(deadline.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout) {
            lose_log_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    /// Writes nothing until it is opened.
    #[derive(Clone, Default)]
    struct Gate(Arc<Held>);

    #[derive(Default)]
    struct Held {
        text: Mutex<Option<Vec<u8>>>,
        opened: Condvar,
    }

    impl Gate {
        fn open(&self) {
            *self.0.text.lock().unwrap() = Some(Vec::new());
            self.0.opened.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.text.lock().unwrap().clone().unwrap()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let mut held = self.0.opened.wait_while(self.0.text.lock().unwrap(), |text| text.is_none()).unwrap();
            held.as_mut().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        let gate = Gate::default();
        let (mut sink, flush) = Sink::open(3, Duration::from_secs(1), gate.clone());
        for number in 0..100 {
            sink.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        gate.open();
        drop(flush);
        let text = gate.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!((3..=4).contains(&lines.len()) && lines[0] == "0", "{lines:?}");
        assert!(log_lines_lost() >= 96);
    }

    #[test]
    fn a_text_is_one_line() {
        assert_eq!(one_line(b"a\nb\n"), b"a\\nb\n");
        assert_eq!(one_line(b"a\n"), b"a\n");
        assert_eq!(one_line(b"a"), b"a");
    }
}
