//! What is refused in `[[cors]]`.

use super::*;

#[test]
fn what_would_say_more_than_is_meant_is_refused() {
    for (name, rule, want) in [
        ("no path", "origins = [\"https://a\"]", "cors[0].path: is missing"),
        ("no origins", "path = \"/*\"", "cors[0].origins: is missing"),
        ("empty", "path = \"/*\"\norigins = []", "cors[0].origins: is missing"),
        ("path", "path = \"/*\"\norigins = [\"https://a/\"]", "origins have no path"),
        ("null", "path = \"/*\"\norigins = [\"null\"]", "every sandboxed page"),
        ("top", "path = \"/*\"\norigins = [\"https://*.com\"]", "top-level domain"),
        ("beside", "path = \"/*\"\norigins = [\"*\", \"https://a\"]", "beside other origins"),
        (
            "credentials",
            "path = \"/*\"\norigins = [\"*\"]\ncredentials = true",
            "no `*` together with credentials",
        ),
        (
            "twice",
            "path = \"/a/*\"\norigins = [\"*\"]\n[[cors]]\npath = \"/a/*\"\norigins = [\"*\"]",
            "cors[1].path: is the path of an earlier [[cors]]",
        ),
    ] {
        let found = faults(&format!("{SMALL}\n[[cors]]\n{rule}\n"));
        assert!(found.iter().any(|f| f.contains(want)), "{name}: {found:#?}");
        assert_eq!(found.len(), 1, "{name}: one fault makes one message: {found:#?}");
    }
}
