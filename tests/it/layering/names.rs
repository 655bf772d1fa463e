//! Names of types: one name, one thing. CONTRIBUTING.md has the glossary.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::Tree;

/// Per cent of top-level types that may share their name with one of another file. Only ever lowered.
const SHARED_AT_MOST: usize = 10;

/// Names that were given up, because they said too little or too much. Nobody takes them again.
const RETIRED: &[&str] = &[
    "Lease",
    "Answer",    // AnswerHead, AnswerContent, OutgoingAnswer, SidecarAnswer
    "Around",    // RewriteContext, ExchangeContext
    "Artefact",  // ReloadKind, BuiltFile
    "Asked",     // PlainRequest, RefusalContext, UpgradeRequest
    "Cell",      // std has one: MetricCell
    "Coming",    // ClientBody
    "Compared",  // DiffSide, ThreeWayKey
    "Content",   // AnswerContent, JsonlContent
    "Cut",       // CutReason, TunnelCut
    "Desk",      // Acceptance
    "End",       // ConnectionEnd, RequestEnd, TunnelEnd
    "Ended",     // TurnEnd, HyperEnd, TunnelSummary
    "Entry",     // RegistryEntry, KeyEntry, StreamEntry
    "Fault",     // FileFault, ConfigFault, PumpFault
    "Feed",      // RunningSource
    "First",     // SourceAtStart
    "Format",    // ExportFormat, ImportFormat, KeyFormat
    "Found",     // FoundCredential, ImportItem
    "Gone",      // AnswerAbort
    "Head",      // RequestHead, AnswerHead, LineHead
    "InForce",   // ClientTlsInForce, ServerTlsInForce, KeysInForce
    "Keeper",    // KeysInForce
    "Keeping",   // FirstLoad
    "Keys",      // KeysCommand, KeySet
    "Kill",      // TaskAbort
    "Lines",     // AnswerLines, LineReader
    "Look",      // LookAttempt, Preview
    "Loop",      // ReloadLoop
    "Moments",   // Activity
    "Next",      // PlainEnd
    "Outcome",   // CopyOutcome, TlsReloadOutcome
    "Outgoing",  // WrittenRequest, HeadChanges
    "Over",      // PlainEnd
    "Patience",  // AnswerDeadline
    "Pending",   // PendingPart, UnpublishedKeys
    "Prepared",  // PreparedStart, PreparedRefusals
    "Progress",  // UploadProgress, HeaderProgress, ProgressLine
    "Reach",     // ConnectionReach, AllowedNetworks
    "Reading",   // RequestReading, PathReading
    "Resources", // ExchangeResources, KubernetesResources
    "Rest",      // AnswerFraming, RemainingBody
    "Slots",     // ConnectionSlots, StreamSlots
    "Stage",     // BlockingStage, BuildStage
    "Stamp",     // AuditStamp, RawTime
    "Step",      // ChunkState, TourStep
    "Taken",     // ClaimedAddress, AcceptedKey
    "Target",    // KeySelection, WatchedTls
    "Turned",    // TurnedAway
    "Unchunked", // KeptBody
    "Upstream",  // UpstreamPool, UpstreamConfig, DemoUpstream
    "Wanted",    // LineSelection, DemoKey, PemKind
];

#[test]
fn few_types_share_a_name() {
    let types = types(Tree::read());
    let total: usize = types.values().map(Vec::len).sum();
    let shared: Vec<_> = types.iter().filter(|(_, files)| files.len() > 1).collect();
    let count: usize = shared.iter().map(|(_, files)| files.len()).sum();
    for (name, files) in &shared {
        println!("{name}: {}", files.join(", "));
    }
    println!("{count} of {total} top-level types share their name");
    assert!(total > 400, "only {total} types were found");
    assert!(
        count * 100 <= total * SHARED_AT_MOST,
        "{count} of {total} top-level types share a name with another file's, at most \
         {SHARED_AT_MOST} % may\nhint: the list is above; give yours a name of its own"
    );
}

#[test]
fn retired_names_stay_retired() {
    let types = types(Tree::read());
    let back: Vec<_> = RETIRED.iter().filter_map(|name| types.get_key_value(*name)).collect();
    assert!(back.is_empty(), "retired names are defined again: {back:?}");
}

/// The files that define each name at the top level, without tests.
fn types(tree: &Tree) -> BTreeMap<String, Vec<String>> {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in tree.files.iter().filter(|f| !tree.is_test(f)) {
        for (_, line) in file.code() {
            if let Some(name) = defined(line) {
                types.entry(name.into()).or_default().insert(file.name());
            }
        }
    }
    types.into_iter().map(|(name, files)| (name, files.into_iter().collect())).collect()
}

/// The type that a line defines, if it defines one at the top level.
fn defined(line: &str) -> Option<&str> {
    let mut rest = line;
    if let Some(public) = line.strip_prefix("pub") {
        let inside = public.strip_prefix('(').and_then(|p| p.split_once(')'));
        rest = inside.map_or(public, |(_, rest)| rest).trim_start();
    }
    let keywords = ["struct ", "enum ", "trait ", "union ", "type "];
    let name = keywords.iter().find_map(|keyword| rest.strip_prefix(keyword))?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end])
}

#[test]
fn definitions_are_told_from_other_lines() {
    let cases = [
        ("pub struct Table {", Some("Table")),
        ("pub(in super::super) struct Load<'a>(u8);", Some("Load")),
        ("type Result<T> = std::result::Result<T, Error>;", Some("Result")),
        ("    struct Inner;", None),
        ("public struct", None),
        ("typed::call();", None),
        ("use super::Table;", None),
    ];
    for (line, want) in cases {
        assert_eq!(defined(line), want, "{line}");
    }
}
