//! What stays as written, and what a change looks like.

mod generated;
mod page;

use serde_json::{Value, json};

use super::{YamlDocument, split};
use crate::inject::pod::patch::PatchOperation;

fn add(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Add { path: path.into(), value }
}

fn set(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Replace { path: path.into(), value }
}

fn remove(path: &str) -> PatchOperation {
    PatchOperation::Remove { path: path.into() }
}

/// The text after the operations; its meaning must be the document's value.
fn changed(text: &str, patch: &[PatchOperation]) -> String {
    let mut document = YamlDocument::parse(text, 1).unwrap();
    document.apply("", patch);
    let written = document.written().unwrap();
    let again = YamlDocument::parse(&written, 1).unwrap_or_else(|e| panic!("{e}\n{written}"));
    assert_eq!(again.value, document.value, "{written}");
    written
}

const WEB: &str = "\
# Who looks after it: orders
apiVersion: v1   # the first
kind: Pod
metadata:
  name: \"web\"
  labels:
    app: web  # selected

  # Nobody knows why.
spec:
  containers:
  - name: app
    # The port.
    ports:
    - containerPort: 8080
      name: http # by name

  # After the containers.
";

#[test]
fn one_value_changes_one_place() {
    let got = changed(WEB, &[set("/spec/containers/0/ports/0/name", json!("up-http"))]);
    assert_eq!(got, WEB.replace("name: http # by", "name: up-http # by"));
}

#[test]
fn what_is_new_comes_behind_the_last_of_its_kind() {
    let patch = [
        add("/metadata/labels/keygate.dev~1injected", json!("default")),
        add("/metadata/annotations", json!({"a": "1\n2\n", "b": "true"})),
        add("/spec/volumes", json!([{"name": "v", "emptyDir": {}}])),
        add("/spec/containers/-", json!({"name": "x", "args": ["a: b", "c"]})),
    ];
    let want = WEB
        .replace("app: web  # selected\n", "app: web  # selected\n    keygate.dev/injected: default\n  annotations:\n    a: |\n      1\n      2\n    b: \"true\"\n")
        .replace(
            "name: http # by name\n",
            "name: http # by name\n  - name: x\n    args:\n      - \"a: b\"\n      - c\n  volumes:\n    - name: v\n      emptyDir: {}\n",
        );
    assert_eq!(changed(WEB, &patch), want);
}

#[test]
fn an_item_can_come_first_and_parts_can_go() {
    let got = changed(WEB, &[add("/spec/containers/0", json!({"name": "x"}))]);
    assert_eq!(got, WEB.replace("  - name: app\n", "  - name: x\n  - name: app\n"));
    let got = changed(WEB, &[remove("/spec/containers/0/name"), remove("/metadata/labels")]);
    assert!(got.contains("  - ports:\n    - containerPort: 8080"), "{got}");
    assert!(!got.contains("labels"), "{got}");
    let two = "a:\n- b\n- c\nd: e\n";
    assert_eq!(changed(two, &[remove("/a/0")]), "a:\n- c\nd: e\n");
    assert_eq!(changed(two, &[remove("/a/1")]), "a:\n- b\nd: e\n");
    assert_eq!(changed(two, &[remove("/d"), add("/a/-", json!(1))]), "a:\n- b\n- c\n- 1\n");
}

#[test]
fn what_is_empty_or_in_one_line_is_written_anew() {
    for (text, want) in [
        ("a:\nb: 1\n", "a:\n  x: z\nb: 1\n"),
        ("a: # none\nb: 1\n", "a:\n  x: z\nb: 1\n"),
        ("a: null\nb: 1\n", "a:\n  x: z\nb: 1\n"),
        ("a: {}\nb: 1\n", "a:\n  x: z\nb: 1\n"),
    ] {
        assert_eq!(changed(text, &[set("/a", json!({"x": "z"}))]), want, "{text}");
    }
    let got = changed("a: { c: d, b: [1, 2] } # kept\ne: f\n", &[add("/a/x", json!("y"))]);
    assert_eq!(got, "a:\n  b:\n    - 1\n    - 2\n  c: d\n  x: \"y\"\ne: f\n");
}

#[test]
fn without_a_line_end_at_the_end() {
    assert_eq!(changed("a: b", &[add("/c", json!("d"))]), "a: b\nc: d\n");
    assert_eq!(
        changed("a:\n  b: |\n    c", &[add("/a/d", json!(1))]),
        "a:\n  b: |\n    c\n  d: 1\n"
    );
}

#[test]
fn blocks_keep_their_lines() {
    let text = "a: |\n  ---\n  x: y\n\nb: |+\n  c\n\nd: >-\n  e\n  f\n";
    let got = changed(text, &[set("/d", json!("g")), add("/h", json!(1))]);
    assert_eq!(got, "a: |\n  ---\n  x: y\n\nb: |+\n  c\n\nd: g\nh: 1\n");
    assert_eq!(split(text).len(), 1);
    // Empty lines that are kept, or not, at the end.
    for (header, want) in [("|+", "  c\n\n\ne: 1\n# d\n"), ("|", "  c\ne: 1\n\n\n# d\n")] {
        let got = changed(&format!("a: {header}\n  c\n\n\n# d\n"), &[add("/e", json!(1))]);
        assert_eq!(got, format!("a: {header}\n{want}"));
    }
    let got = changed("a:\n  b: |+\n    c\n  d: 1\n\n# e\n", &[remove("/a/d")]);
    assert_eq!(got, "a:\n  b: |+\n    c\n# e\n");
}

#[test]
fn line_ends_of_windows_stay() {
    let text = "a: b\r\nc:\r\n- d\r\n";
    let got = changed(text, &[add("/c/-", json!("e")), add("/f", json!("1\n2\n"))]);
    assert_eq!(got, "a: b\r\nc:\r\n- d\r\n- e\r\nf: |\r\n  1\r\n  2\r\n");
}

/// Several places may refer to one part: the document is rewritten, with its full meaning.
#[test]
fn anchors_and_merges_are_resolved() {
    let text = "# head\na: &x {app: web}\nb: *x\nc:\n  <<: *x\n  d: 1\n";
    let got = changed(text, &[add("/b/new", json!("1"))]);
    let value = YamlDocument::parse(&got, 1).unwrap().value;
    let want = json!({
        "a": {"app": "web"}, "b": {"app": "web", "new": "1"}, "c": {"app": "web", "d": 1}
    });
    assert_eq!(value, want);
    assert!(got.starts_with("# head\n"), "{got}");
    // Nothing changes, so nothing is rewritten.
    assert_eq!(YamlDocument::parse(text, 1).unwrap().written().unwrap(), text);
}

#[test]
fn json_stays_json() {
    let got = changed("{\"a\": {\"b\": 1}}\n", &[add("/a/c", json!([2]))]);
    assert_eq!(serde_json::from_str::<Value>(&got).unwrap(), json!({"a": {"b": 1, "c": [2]}}));
}

#[test]
fn a_stream_is_its_documents() {
    for (stream, want) in [
        ("", 0),
        ("a: b\n", 1),
        ("---\na: b\n---\nc: d\n", 2),
        ("# only\n", 1),
        ("# head\n---\na: b\n", 1),
        ("a: b\n---\n# only\n---\n", 3),
        ("a: b\n--- # x\nc: d\n---e: f\n", 2),
        ("a: |\n  ---\n  b\n...\n---\r\nc: d\r\n", 2),
        ("a: b\n...\nc: d\n", 2),
        ("a: b\r\n... # end\r\n# head\r\nc: d\r\n", 2),
        ("a: b\n...\n%YAML 1.2\n---\nc: d\n", 2),
        ("a: b\n...\n...\n# only\n\n", 1),
        ("...\na: b\n...x: y\n", 2),
        ("a: |\n  ...\n  b\n....: c\n", 1),
    ] {
        let documents = split(stream);
        assert_eq!(documents.len(), want, "{stream:?} {documents:?}");
        let whole: String = documents.iter().map(|(_, text)| *text).collect();
        assert_eq!(whole, stream);
    }
    assert_eq!(split("a: b\n---\nc: d\n")[1].0, 2);
    assert_eq!(split("a: b\n...\n# c\nd: e\n")[1], (3, "# c\nd: e\n"));
}

/// Whatever `split` overlooks, no document hides behind another.
#[test]
fn a_second_document_is_refused() {
    for text in ["a: b\r---\rc: d\r", "a: b\n...\nc: d\n", "--- a\n--- b\n"] {
        let fault = YamlDocument::parse(text, 1).unwrap_err().to_string();
        assert!(fault.contains("a second document begins here\nhint: "), "{text:?} {fault}");
    }
}

/// Something over several lines in flow style goes as a whole, and only it.
#[test]
fn flow_over_several_lines_is_written_anew() {
    let port = json!({"name": "http", "containerPort": 8080});
    let want = "a: b\nports:\n  - name: http\n    containerPort: 8080\n  - 1\n# next\nc: d\n";
    for flow in [
        "[\n  {name: http, containerPort: 8080}\n]\n",
        "[ {name: http,\n          containerPort: 8080 } ] # tail\n",
        "[ # {\n  { name: http, # ] }\n\n \"containerPort\" : 8080,\n },\n# ]\n   ]  # tail\n",
        "\n  [{name: 'http',\n  containerPort: 8080}]\n",
    ] {
        let text = format!("a: b\nports: {flow}# next\nc: d\n");
        assert_eq!(changed(&text, &[add("/ports/-", json!(1))]), want, "{text}");
    }
    let text = "spec:\n- {name: c0, image: \"x\n  y\",\n   ports: [{name: http,\n     containerPort: 8080}]}\n# end\n";
    let want = "spec:\n- name: c0\n  image: \"x y\"\n  ports:\n    - name: http\n      containerPort: 8080\n  z: 1\n# end\n";
    assert_eq!(changed(text, &[add("/spec/0/z", json!(1))]), want);
    let text = "metadata: {\n\"name\": \"p\",\n\"labels\": {\n app: web\n}}\nspec: 1\n";
    let want = "metadata:\n  name: p\n  labels:\n    app: web\n    http: \n      name: http\n      containerPort: 8080\nspec: 1\n";
    assert_eq!(changed(text, &[add("/metadata/labels/http", port)]), want.replace(": \n", ":\n"));
}

/// An item begins at its `-`, whatever follows that.
#[test]
fn comments_after_a_dash_stay_with_its_item() {
    let text = "c:\n  - # the app - x\n    name: c1\n  -   # its\n\n    # port\n    - 1\n  - - # y\n      z\n";
    let first = changed(text, &[add("/c/0", json!({"name": "x"}))]);
    assert_eq!(first, text.replace("  - # the", "  - name: x\n  - # the"));
    let last = changed(text, &[add("/c/1/-", json!(2)), add("/c/2/0", json!(3))]);
    let want = text.replace("    - 1\n", "    - 1\n    - 2\n");
    assert_eq!(last, want.replace("  - - # y\n", "  - \n    - 3\n    - # y\n"));
    let gone = changed(text, &[remove("/c/0"), remove("/c/0/0")]);
    assert_eq!(gone, "c:\n  - []\n  - - # y\n      z\n");
}

/// A text block takes in what is indented as deep as it is.
#[test]
fn comments_behind_a_new_text_block_are_not_in_it() {
    let text = "a: x # why\n        # deep\n    \n# c\nb: y\n      # end\n          \n";
    let patch = [set("/a", json!("1\n2\n")), add("/c", json!("3\n4\n"))];
    assert_eq!(
        changed(text, &patch),
        "a: | # why\n  1\n  2\n# deep\n\n# c\nb: y\n      # end\nc: |\n  3\n  4\n\n"
    );
}

/// What is odd is rewritten, but neither its beginning, nor its end, nor the comments after it.
#[test]
fn odd_documents_keep_their_edges() {
    let text = "# head\n--- &x\na: &y 1\n? b # c: d\n: *y\n# tail\n... # end\n";
    let got = changed(text, &[add("/c", json!(2))]);
    assert_eq!(got, "# head\n--- &x\na: 1\nb: 1\nc: 2\n# tail\n... # end\n");
    let text = "? a # x: y\n: b\nc: d\n";
    assert_eq!(changed(text, &[set("/a", json!("e"))]), "a: e\nc: d\n");
}

/// Aliases of aliases multiply.
#[test]
fn aliases_have_a_bound() {
    let chain = |levels: usize, width: usize| {
        let mut text = "a0: &a0 [x]\n".to_owned();
        for level in 1..=levels {
            let below = vec![format!("*a{}", level - 1); width].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        text
    };
    assert!(YamlDocument::parse(&chain(4, 10), 1).is_ok());
    for text in [
        chain(8, 10),
        chain(60, 2),
        format!("- &a {}\n{}", "x".repeat(1 << 20), "- *a\n".repeat(40)),
    ] {
        let fault = YamlDocument::parse(&text, 7).unwrap_err();
        assert!(fault.line > 7, "{fault}");
        let told = fault.to_string();
        assert!(
            told.contains("aliases stand for more than 300000 values or 32 MiB of text\nhint: "),
            "{told}"
        );
    }
    // A template that a hundred objects use.
    let template = (0..500).map(|at| format!("  k{at}: {at}\n")).collect::<String>();
    let text = format!("t: &t\n{template}items:\n{}", "- *t\n".repeat(100));
    assert_eq!(YamlDocument::parse(&text, 1).unwrap().value["items"][99]["k499"], 499);
    let deep = (1..60).fold("a0: &a0 [[[[[x]]]]]\n".to_owned(), |text, at| {
        text + &format!("a{at}: &a{at} [[[[[*a{}]]]]]\n", at - 1)
    });
    let fault = YamlDocument::parse(&deep, 1).unwrap_err();
    assert!(fault.why.contains("nested too deep"), "{fault}");
}

/// The last line of defence: a wrong text is no text.
#[test]
fn a_text_that_means_something_else_is_not_written() {
    let mut document = YamlDocument::parse("a: b\nc: d\n", 3).unwrap();
    document.apply("", &[set("/a", json!("e"))]);
    assert_eq!(document.written().unwrap(), "a: e\nc: d\n");
    document.value = json!({"a": "other", "c": "d"});
    let told = document.written().unwrap_err().to_string();
    assert!(
        told.starts_with("internal error: the document at line 3 cannot be written: "),
        "{told}"
    );
}

#[test]
fn scalars_mean_what_kubernetes_reads() {
    for (text, want) in [
        ("8080", json!(8080)),
        ("0644", json!(420)),
        ("0x1f", json!(31)),
        ("-1", json!(-1)),
        ("1_000", json!(1000)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000.0)),
        ("yes", json!(true)),
        ("off", json!(false)),
        ("~", json!(null)),
        ("1.2.3", json!("1.2.3")),
        ("50m", json!("50m")),
        ("'1'", json!("1")),
        ("\"true\"", json!("true")),
        ("-", json!("-")),
        (".", json!(".")),
        ("08", json!("08")),
    ] {
        let document = YamlDocument::parse(&format!("a: {text}\n"), 1);
        let Ok(document) = document else { continue };
        assert_eq!(document.value["a"], want, "{text}");
    }
}

#[test]
fn texts_mean_themselves() {
    for text in [
        "", " ", "a", "true", "no", "y", "1", "0x1", "~", "-", "a: b", "#", "a #b", "*a", "&a",
        "!a", "é", "\u{85}", "\u{2028}", "\t", "a\nb", "a\nb\n", "\n", " a\n", "a\r\nb\n", "'",
        "\"", "\\", "{", "[", "%", "@", "`", "null", "1e3", ".5", "=", "<<", "\u{feff}",
        "a\n\nb\n", "a  \nb\n", "a\n  \n", "a\n\n\n", "#\n",
    ] {
        let got = changed("a: b\n", &[set("/a", json!(text))]);
        assert_eq!(YamlDocument::parse(&got, 1).unwrap().value["a"], json!(text), "{got:?}");
        let got = changed("a: b\n", &[add("/c", json!([{text: [text]}]))]);
        assert_eq!(
            YamlDocument::parse(&got, 1).unwrap().value["c"][0][text][0],
            json!(text),
            "{got:?}"
        );
    }
}

#[test]
fn faults_have_their_line() {
    for (text, line) in [("a: b\nc: [\n", 2..=4), ("a: 1\na: 2\n", 2..=2), ("a: *b\n", 1..=1)] {
        let fault = YamlDocument::parse(text, 10).unwrap_err();
        assert!((line.start() + 9..=line.end() + 9).contains(&fault.line), "{fault}");
    }
}
