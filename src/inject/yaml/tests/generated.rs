//! Any document, any change: the text means what the change makes of the value, and the rest of it
//! stays.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::page::{Choices, NAMES, Page};
use super::{add, remove, set};
use crate::inject::pod::patch::{PatchOperation, applied, pointer};
use crate::inject::yaml::{YamlDocument, split};

/// Every place in a value, without the outermost.
fn places(value: &Value, path: &str, all: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect()
        }
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        _ => return,
    };
    for (name, value) in below {
        let path = format!("{path}{}", pointer(&[&name]));
        all.push(path.clone());
        places(value, &path, all);
    }
}

/// A change that fits a value.
fn change(value: &Value, choices: &mut Choices<'_>) -> PatchOperation {
    let mut all = Vec::new();
    places(value, "", &mut all);
    let at = choices.below(all.len() + 1);
    let new = choices.value(2);
    let Some(path) = all.get(at) else {
        return add(&pointer(&[NAMES[choices.below(NAMES.len())]]), new);
    };
    match (choices.below(4), value.pointer(path).unwrap()) {
        (0, _) => remove(path),
        (1, _) => set(path, new),
        (2, Value::Array(_)) => add(&format!("{path}/0"), new),
        (_, Value::Array(_)) => add(&format!("{path}/-"), new),
        (_, Value::Object(_)) => {
            add(&format!("{path}{}", pointer(&[NAMES[choices.below(NAMES.len())]])), new)
        }
        _ => set(path, new),
    }
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut choices = Choices(bytes);
    let root = choices.mapping(4);
    let count = 1 + choices.below(3);
    let mut after = root.clone();
    let mut patch = Vec::new();
    for _ in 0..count {
        let operation = change(&after, &mut choices);
        after = applied(&after, std::slice::from_ref(&operation));
        patch.push(operation);
    }
    let page = Page::of(&root, &mut choices);
    let text = &page.text;
    let mut document = YamlDocument::parse(text, 1)
        .map_err(|fault| TestCaseError::fail(format!("{fault}\n{text}")))?;
    prop_assert_eq!(&document.value, &root, "{}", text);
    prop_assert_eq!(&document.written().unwrap(), text);
    document.apply("", &patch);
    prop_assert_eq!(&document.value, &after, "{}\n{:?}", text, patch);
    let written = document
        .written()
        .map_err(|fault| TestCaseError::fail(format!("{fault}\n{text}\n{patch:?}")))?;

    // Comments in values that nothing has touched.
    let touched: BTreeSet<&str> = patch
        .iter()
        .map(|operation| match operation {
            PatchOperation::Add { path, .. }
            | PatchOperation::Replace { path, .. }
            | PatchOperation::Remove { path } => path.split('/').nth(1).unwrap(),
        })
        .collect();
    for (name, comments) in &page.outermost {
        if !page.is_odd && !touched.contains(&pointer(&[name])[1..]) {
            for comment in comments.clone() {
                prop_assert!(
                    written.contains(&format!("# c{comment}.")),
                    "{}\n{:?}\n{}",
                    text,
                    patch,
                    written
                );
            }
        }
    }

    // What comes after it in a stream stays another document.
    if written.ends_with('\n') {
        let next = if text.contains("\n...") { "next: 1\n" } else { "---\nnext: 1\n" };
        let stream = format!("{written}{next}");
        let values: Vec<_> = split(&stream)
            .into_iter()
            .map(|(line, text)| YamlDocument::parse(text, line).unwrap().value)
            .collect();
        prop_assert_eq!(values, vec![after, json!({"next": 1})], "{}", stream);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_change_of_any_document_is_written_as_meant(
        bytes in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        check(&bytes)?;
    }
}
