//! Every fuzz target over its corpus and over changed inputs of it, as a test of the library: built
//! as the other tests are, without libFuzzer.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

/// Changed inputs of each target.
const CASES: u32 = 4_000;

/// As libFuzzer's, but makes a function of the target.
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:block) => {
        pub(crate) fn fuzz($data: &[u8]) $body
    };
    (|$text:ident: &str| $body:block) => {
        pub(crate) fn fuzz(data: &[u8]) {
            let Ok($text) = std::str::from_utf8(data) else { return };
            $body
        }
    };
}

macro_rules! targets {
    ($($name:ident = $file:literal,)*) => {
        $(
            #[allow(
                clippy::duplicate_mod,
                clippy::fn_params_excessive_bools,
                unreachable_pub,
                reason = "a target is also a program of its own"
            )]
            #[path = $file]
            mod $name;
        )*

        /// The folders of inputs and the programs of `make fuzz` are these targets.
        #[test]
        fn every_target_is_replayed() {
            let mut ours = [$(stringify!($name)),*];
            ours.sort_unstable();
            let mut folders: Vec<String> = fs::read_dir(corpora())
                .expect("fuzz/corpus")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
                .collect();
            folders.sort_unstable();
            assert_eq!(folders, ours);
            let manifest = include_str!("Cargo.toml");
            let bins = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
            let mut bins: Vec<&str> = bins.filter_map(|line| line.strip_suffix(".rs\"")).collect();
            bins.sort_unstable();
            assert_eq!(bins, ours);
        }

        $(
            #[test]
            fn $name() {
                replay(stringify!($name), $name::fuzz);
            }
        )*
    };
}

targets! {
    admission = "fuzz_targets/admission.rs",
    answer_readers = "fuzz_targets/answer_readers.rs",
    credentials = "fuzz_targets/credentials.rs",
    forwarded_for = "fuzz_targets/forwarded_for.rs",
    http1 = "fuzz_targets/http1.rs",
    http2 = "fuzz_targets/http2.rs",
    ledger = "fuzz_targets/ledger.rs",
    manifest = "fuzz_targets/manifest.rs",
    patch = "fuzz_targets/patch.rs",
    path = "fuzz_targets/path.rs",
    proxy_header = "fuzz_targets/proxy_header.rs",
    request_readers = "fuzz_targets/request_readers.rs",
    review = "fuzz_targets/review.rs",
    table = "fuzz_targets/table.rs",
    tokens = "fuzz_targets/tokens.rs",
}

/// A range of an input that other bytes take the place of: its end is `length` after its beginning.
#[derive(Debug, Clone)]
struct Edit {
    at: Index,
    length: usize,
    new: Piece,
}

#[derive(Debug, Clone)]
enum Piece {
    Bytes(Vec<u8>),
    /// Of any input: where it begins, and how long it is at most.
    OfInput(Index, Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let of_input = (any::<Index>(), any::<Index>(), 0..64_usize);
    let new = prop_oneof![
        vec(any::<u8>(), 0..4).prop_map(Piece::Bytes),
        of_input.prop_map(|(input, at, most)| Piece::OfInput(input, at, most)),
    ];
    // Mostly a byte or two; at times all that follows.
    let length = prop_oneof![8 => 0..3_usize, 2 => 0..64_usize, 1 => Just(usize::MAX)];
    (any::<Index>(), length, new).prop_map(|(at, length, new)| Edit { at, length, new })
}

fn edited(inputs: &[Vec<u8>], of: Index, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = of.get(inputs).clone();
    for Edit { at, length, new } in edits {
        let start = at.index(bytes.len() + 1);
        let end = start.saturating_add(*length).min(bytes.len());
        let new = match new {
            Piece::Bytes(new) => new.as_slice(),
            Piece::OfInput(input, at, most) => {
                let other = input.get(inputs);
                let rest = &other[at.index(other.len() + 1)..];
                &rest[..rest.len().min(*most)]
            }
        };
        bytes.splice(start..end, new.iter().copied());
    }
    bytes
}

fn corpora() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))
}

/// A panic of the target fails the test, which prints the smallest input that it has found.
fn replay(name: &str, target: fn(&[u8])) {
    let entries = fs::read_dir(corpora().join(name)).expect("the target's corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort_unstable();
    let read = |path| fs::read(path).expect("an input");
    let inputs: Vec<Vec<u8>> = paths.iter().map(read).collect();
    assert!(!inputs.is_empty(), "no input");
    for (path, input) in paths.iter().zip(&inputs) {
        let told = std::panic::catch_unwind(|| target(input));
        assert!(told.is_ok(), "the target panics over {}", path.display());
    }
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let strategy = (any::<Index>(), vec(edit(), 1..5));
    let tried = TestRunner::new(config).run(&strategy, |(of, edits)| {
        let input = edited(&inputs, of, &edits);
        let shown = input.escape_ascii().to_string();
        std::panic::catch_unwind(|| target(&input))
            .map_err(|_| TestCaseError::fail(format!("the target panics over b\"{shown}\"")))
    });
    if let Err(fault) = tried {
        panic!("{name}: {fault}");
    }
}
