//! A usage record, page by page: the keys in the order of their digests, then those without a
//! record. Between two pages, key sets may change. Imports core, `usage`.
//!
//! A record may end anywhere: after a crash, on a full disk, on a connection that lived too long.
//! So only the head before the last lines says that the record is complete.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use super::book::UseBook;
use super::traces::KeyTrace;
use crate::core::{Digest, KeyId, KeyUse};
use crate::usage::record::RecordPart;
use crate::usage::{UsageHead, UsageLine};

/// The most keys on a page of those without a record.
const KEYS: usize = 2048;

/// Number of pages that are made together in the hope that they are the whole record, which then
/// has one head.
const AT_ONCE: usize = 4;

/// A record of what was used or refused in or since one minute.
#[derive(Debug)]
pub struct UsePages {
    book: Arc<UseBook>,
    since: u32,
    /// When the record began.
    now: u32,
    stage: PageStage,
    heads: HeadStage,
    /// The keys that the last stage would show again.
    shown: HashSet<KeyId>,
}

/// A key on a page.
#[derive(Clone, Copy, Debug)]
struct PageKey {
    id: KeyId,
    used: KeyUse,
    has_former: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum HeadStage {
    First,
    /// The first head said that more follows.
    Last,
}

#[derive(Debug)]
enum PageStage {
    /// Records from this digest on. `None`: from the first.
    Records(Option<Digest>),
    Rest(Vec<KeyId>),
    End,
}

// === impl UsePages ===

impl UsePages {
    /// `since`: minutes since 1970. 0: everything.
    pub fn new(book: &Arc<UseBook>, since: u32) -> Self {
        let (book, now) = (Arc::clone(book), book.now());
        let (stage, heads) = (PageStage::Records(None), HeadStage::First);
        Self { book, since, now, stage, heads, shown: HashSet::new() }
    }

    /// The minute that the next record has to begin with, so that nothing is missing between the
    /// two. It is the minute before this record's: a worker reads the clock before it counts, and
    /// may count for a minute that has just ended.
    pub fn next_since(&self) -> u32 {
        self.now.saturating_sub(1)
    }

    /// Appends complete lines, heads included. False: that was the last page. A page may be empty.
    pub fn next_page(&mut self, out: &mut Vec<u8>) -> bool {
        let mut lines = Vec::new();
        let mut more = self.next_lines(&mut lines);
        if self.heads == HeadStage::First {
            for _ in 1..AT_ONCE {
                more = more && self.next_lines(&mut lines);
            }
            out.append(&mut self.head(if more { RecordPart::More } else { RecordPart::Last }));
            out.append(&mut lines);
            self.heads = HeadStage::Last;
        } else {
            out.append(&mut lines);
            if !more {
                out.append(&mut self.head(RecordPart::Last));
            }
        }
        more
    }

    /// A head of this record.
    pub(super) fn head(&self, part: RecordPart) -> Vec<u8> {
        let mut line = Vec::new();
        // Anything counted from now on may be missing.
        write_line(&mut line, &UsageHead { now: self.now, part, ..self.book.head(self.since) });
        line
    }

    /// Appends complete lines of keys. False: those were the last ones. There may be none.
    pub(super) fn next_lines(&mut self, out: &mut Vec<u8>) -> bool {
        match std::mem::replace(&mut self.stage, PageStage::End) {
            PageStage::Records(from) => {
                // Written once the book is unlocked again.
                let mut keys = Vec::new();
                let next = self.book.walk(from, |key| {
                    let has_former = key.former != KeyUse::default();
                    keys.push(PageKey { id: key.id, used: key.total, has_former });
                });
                for key in keys {
                    self.key(out, key);
                }
                self.stage = match next {
                    Some(next) => PageStage::Records(Some(next)),
                    None => PageStage::Rest(self.rest()),
                };
            }
            PageStage::Rest(mut ids) => {
                for id in ids.split_off(ids.len().saturating_sub(KEYS)) {
                    let trace = self.book.traces().get(id);
                    let used = trace.as_ref().map(|t| t.used).unwrap_or_default();
                    // Uses that the trace has seen may be among the former uses by now.
                    write_key(out, id, used.max(self.book.former(id)), trace.as_ref());
                }
                if !ids.is_empty() {
                    self.stage = PageStage::Rest(ids);
                }
            }
            PageStage::End => {}
        }
        !matches!(self.stage, PageStage::End)
    }

    fn key(&mut self, out: &mut Vec<u8>, key: PageKey) {
        let PageKey { id, used, has_former } = key;
        let trace = self.book.traces().get(id);
        let touched = trace.as_ref().map_or(0, |trace| trace.touched);
        if used.last.max(touched) >= self.since {
            if trace.is_some() || has_former {
                self.shown.insert(id);
            }
            write_key(out, id, used, trace.as_ref());
        }
    }

    /// Keys that were used and have no record.
    fn rest(&self) -> Vec<KeyId> {
        let mut rest = self.book.traces().since(self.since);
        rest.extend(self.book.former_since(self.since));
        rest.retain(|id| !self.shown.contains(id));
        rest.sort_unstable();
        rest.dedup();
        rest
    }
}

fn write_key(out: &mut Vec<u8>, id: KeyId, used: KeyUse, trace: Option<&KeyTrace>) {
    let refused = trace.map(|trace| {
        let counts = trace.refused.iter();
        counts.map(|(reason, n)| (Cow::Borrowed(reason.as_str()), u64::from(*n))).collect()
    });
    let line = UsageLine {
        key: id.to_string().into(),
        last: used.last,
        admitted: used.admitted,
        refused: refused.unwrap_or_default(),
        nets: trace.map(KeyTrace::networks).unwrap_or_default(),
    };
    write_line(out, &line);
}

fn write_line(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Writing to memory cannot fail, and neither can serialising these types.
    if serde_json::to_writer(&mut *out, value).is_ok() {
        out.push(b'\n');
    }
}
