//! One table of exit codes for both programs (the BSD `sysexits` that scripts already know).

use std::process::{ExitCode, Termination};

/// How a program ended. docs/exit-codes.md says when each is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An output could not be created, or an address not bound.
    CannotCreate,
    /// The configuration is wrong.
    Config,
    /// An input was read and refused: a table, a patch, a registry, an import.
    Data,
    /// A fault in the program itself.
    Internal,
    /// An input file is missing or cannot be read.
    NoInput,
    /// A database was written by a newer program.
    NewerSchema,
    Ok,
    /// A temporary problem: a lock is held, a network is down. Trying again is right.
    TryAgain,
    /// A publication would undo what somebody else has published.
    Undone,
    /// Wrong arguments.
    Usage,
    /// Callers who are served today would be refused.
    WouldBreak,
}

// === impl Exit ===

impl Exit {
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Usage,
        Self::Data,
        Self::NoInput,
        Self::Internal,
        Self::CannotCreate,
        Self::TryAgain,
        Self::Undone,
        Self::Config,
        Self::WouldBreak,
        Self::NewerSchema,
    ];

    pub const fn code(self) -> u8 {
        match self {
            Self::CannotCreate => 73,
            Self::Config => 78,
            Self::Data => 65,
            Self::Internal => 70,
            Self::NewerSchema => 80,
            Self::NoInput => 66,
            Self::Ok => 0,
            Self::TryAgain => 75,
            Self::Undone => 77,
            Self::Usage => 64,
            Self::WouldBreak => 79,
        }
    }

    /// The exit with this code. A code that is not in the table is a fault of the program.
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Internal)
    }

    /// Prints clap's message (help and version to stdout, errors to stderr) and returns the code:
    /// clap's own 2 becomes 64. `shown` reduces a message to what may be shown.
    pub fn of_clap(error: &clap::Error, shown: impl FnOnce(&str) -> String) -> Self {
        if error.use_stderr() {
            let text = error.render().to_string();
            // clap's last sentence, in the form of every other hint.
            let text =
                text.replace("For more information, try '--help'.", "hint: --help says more");
            eprint!("{}", shown(&text));
            return Self::Usage;
        }
        // Nothing can be done about a closed stdout here.
        let _ = error.print();
        Self::Ok
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_and_no_other() {
        let text = include_str!("../docs/exit-codes.md");
        // Codes of refused tables follow. They belong to the table room.
        let (text, _) = text.split_once("\n## ").unwrap();
        let documented: Vec<u8> = text
            .lines()
            .filter_map(|l| l.strip_prefix("| ")?.split_once(" |")?.0.trim().parse().ok())
            .collect();
        // 1 is an answer of a command, not an end of the program.
        let documented: Vec<u8> = documented.into_iter().filter(|code| *code != 1).collect();
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(documented, codes);
    }
}
