//! docs/table-format.md lists what the code refuses, with its exit codes.

use crate::table::Refusal;

#[test]
fn the_reasons_are_documented() {
    let page = include_str!("../../../docs/table-format.md");
    for (reason, exit) in Refusal::REASONS {
        let row = format!("| `{reason}` | {exit} | ");
        assert!(page.contains(&row), "{row}");
    }
    let rows = page.lines().skip_while(|l| !l.starts_with("## 7")).filter(|l| l.starts_with("| `"));
    assert_eq!(rows.count(), Refusal::REASONS.len());
}
