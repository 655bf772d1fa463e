//! The table format has a second reader, written from docs/table-format.md in another language.

use crate::support::tools;

#[test]
fn the_second_reader_agrees_on_every_vector() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/table/reader.py");
    let output = tools::python().arg(script).output().expect("python3 is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" 0 disagreements"), "{said}");
}
