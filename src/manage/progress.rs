//! Progress of long work, for a person who waits: one line on a terminal's standard error, which
//! overwrites itself. Never in a pipe, a file, or with `--json`.

use std::io::{self, IsTerminal, Write};

/// Steps between two updates of the line: some tens of milliseconds of work. Short work shows
/// nothing.
const EVERY: u64 = 1 << 14;

/// A count that displays itself. Dropping it clears the line from the terminal.
pub struct ProgressLine {
    /// `None`: nobody is watching.
    to: Option<Box<dyn Write>>,
    steps: u64,
    shown: bool,
}

// === impl ProgressLine ===

impl ProgressLine {
    /// For people on a terminal.
    pub fn standard() -> Self {
        let error = io::stderr();
        let to = error.is_terminal().then(|| Box::new(error) as Box<dyn Write>);
        Self { to, steps: 0, shown: false }
    }

    /// For programs.
    pub const fn none() -> Self {
        Self { to: None, steps: 0, shown: false }
    }

    /// One more of `what`, such as `keys read`.
    pub fn step(&mut self, what: &str) {
        self.steps += 1;
        if self.steps.is_multiple_of(EVERY) {
            let steps = grouped(self.steps);
            self.show(&format!("{steps} {what}"));
        }
    }

    /// Work without a count, such as `sorting`, is in progress.
    pub fn say(&mut self, what: &str) {
        // Short work is over before anybody could read the line.
        if self.steps >= EVERY {
            self.show(what);
        }
    }

    /// Clears the line and restarts the count.
    pub fn end(&mut self) {
        if let Some(to) = self.to.as_mut().filter(|_| self.shown) {
            // `ESC [ K` clears to the end of the line. A failing terminal is no reason to fail.
            let _ = to.write_all(b"\r\x1b[K").and_then(|()| to.flush());
        }
        self.shown = false;
        self.steps = 0;
    }

    fn show(&mut self, text: &str) {
        if let Some(to) = &mut self.to {
            let _ = write!(to, "\r{text} …\x1b[K").and_then(|()| to.flush());
            self.shown = true;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.end();
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A terminal that keeps what was written to it.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on(screen: &Screen) -> ProgressLine {
        ProgressLine { to: Some(Box::new(screen.clone())), steps: 0, shown: false }
    }

    #[test]
    fn long_work_is_shown_and_leaves_no_trace() {
        let screen = Screen::default();
        let mut progress = on(&screen);
        for _ in 0..=2 * EVERY {
            progress.step("keys read");
        }
        progress.say("sorting");
        drop(progress);
        let text = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        let want = "\r16,384 keys read …\x1b[K\r32,768 keys read …\x1b[K\rsorting …\x1b[K\r\x1b[K";
        assert_eq!(text, want);
    }

    #[test]
    fn short_work_shows_nothing() {
        let screen = Screen::default();
        let mut progress = on(&screen);
        (0..EVERY - 1).for_each(|_| progress.step("keys read"));
        progress.say("sorting");
        drop(progress);
        assert!(screen.0.lock().unwrap().is_empty());
    }

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, want) in cases {
            assert_eq!(grouped(number), want);
        }
    }
}
