//! The component has all texts of the catalogue, and none of its own.

use super::*;

#[test]
fn the_component_has_no_words_of_its_own() {
    let source = include_str!("keys.js");
    let told = words(Words::preferred("en"));
    let told = told.as_object().unwrap();
    let mut used = std::collections::BTreeSet::new();
    for (at, _) in source.match_indices("words.") {
        let name: String =
            source[at + 6..].chars().take_while(char::is_ascii_alphanumeric).collect();
        used.insert(name);
    }
    let known: std::collections::BTreeSet<String> = told.keys().cloned().collect();
    assert_eq!(used, known);
    assert!(SOURCE.contains(&*Words::preferred("en").revoke_consequence));
    assert!(!SOURCE.contains("/* words */"), "the words are not in it");
    // It uses nothing that another site's page could turn into HTML or code.
    let code: String = source.lines().filter(|line| !line.starts_with("//")).collect();
    for risk in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "Function(", "document.write"]
    {
        assert!(!code.contains(risk), "{risk}");
    }
    for kept in ["localStorage", "sessionStorage", "indexedDB", "cookie"] {
        assert!(!code.contains(kept), "the token stays in memory: {kept}");
    }
    assert!(source.contains(r#"mode: "closed""#));
    assert!(source.len() < 16 * 1024, "{}", source.len());
}
