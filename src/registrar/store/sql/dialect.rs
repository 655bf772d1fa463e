//! Translates statements for PostgreSQL: each is written once, in SQLite's dialect. PURE.
//!
//! What differs:
//! - places: `?1`, `?` and `:name` become `$1`;
//! - the larger and the smaller of two: `max(a, b)` becomes `greatest(a, b)`;
//! - the order of joins: `CROSS JOIN … ON` becomes `JOIN … ON`, because a planner with statistics
//!   finds the order itself;
//! - lists: `IN (SELECT value FROM json_each(?))` becomes `IN (SELECT unnest(?))`. For `= ANY (?)`
//!   a planner may choose the index of searches, and then read the part that the index has not put
//!   in order yet once per element.

use super::value::SqlValue;

/// Precedes the place of a list, which two brackets end.
const LIST: &str = "IN (SELECT value FROM json_each(";

/// Precedes the values of a row.
const ROW: &str = "VALUES (";

/// A statement for a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerStatement {
    pub(super) text: String,
    /// Names of the places in their order. Empty: the places have numbers.
    pub(super) names: Vec<String>,
}

// === impl ServerStatement ===

impl ServerStatement {
    pub(super) fn of(sql: &str) -> Self {
        let sql = sql.replace("CROSS JOIN", "JOIN").replace(LIST, "IN (SELECT unnest(");
        let (mut text, mut names) = (String::with_capacity(sql.len()), Vec::<String>::new());
        let mut counted = 0_usize;
        let mut rest = sql.as_str();
        while let Some(next) = rest.chars().next() {
            let (taken, written) = match next {
                // A text with a doubled quote counts as two texts here: each half is one.
                '\'' => {
                    let end =
                        rest.get(1..).and_then(|t| t.find('\'')).map_or(rest.len(), |n| n + 2);
                    (end, rest.get(..end).unwrap_or(rest).to_owned())
                }
                '?' => {
                    let digits = digits(rest.get(1..).unwrap_or_default());
                    if digits == 0 {
                        counted += 1;
                        (1, format!("${counted}"))
                    } else {
                        (1 + digits, format!("${}", rest.get(1..=digits).unwrap_or_default()))
                    }
                }
                ':' if rest.starts_with("::") => (2, "::".to_owned()),
                ':' => {
                    let name = rest.get(1..).unwrap_or_default();
                    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    let length = name.find(|c| !word(c)).unwrap_or(name.len());
                    let name = rest.get(..=length).unwrap_or(rest).to_owned();
                    let known = names.iter().position(|known| *known == name);
                    let at = known.unwrap_or_else(|| {
                        names.push(name);
                        names.len() - 1
                    });
                    (1 + length, format!("${}", at + 1))
                }
                'm' if !ends_in_word(&text) => match two(rest) {
                    Some(name) => (4, format!("{name}(")),
                    None => (1, "m".to_owned()),
                },
                other => (other.len_utf8(), other.to_string()),
            };
            text.push_str(&written);
            rest = rest.get(taken..).unwrap_or_default();
        }
        Self { text, names }
    }
}

/// Turns a statement for one row into one for all rows at the same time: its values are columns.
/// Only `VALUES (…)` may have places.
pub(super) fn of_columns(sql: &str, columns: &[SqlValue<'_>]) -> String {
    let Some((before, rest)) = sql.split_once(ROW) else { return sql.to_owned() };
    let mut depth = 0_u32;
    let end = rest.find(|c| {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return true,
            ')' => depth -= 1,
            _ => {}
        }
        false
    });
    let (row, after) = rest.split_at(end.unwrap_or(rest.len()));
    let after = after.strip_prefix(')').unwrap_or(after);
    // From the last to the first: the first place's name is the beginning of the tenth's.
    let numbers = (1..=columns.len()).rev();
    let row =
        numbers.fold(row.to_owned(), |row, n| row.replace(&format!("?{n}"), &format!("c{n}")));
    let places = columns.iter().zip(1..).map(|(column, n)| match column {
        SqlValue::TextColumn(_) => format!("?{n}::text[]"),
        SqlValue::BlobColumn(_) => format!("?{n}::bytea[]"),
        _ => format!("?{n}::bigint[]"),
    });
    let places = places.collect::<Vec<_>>().join(", ");
    let names = (1..=columns.len()).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
    format!("{before}SELECT {row} FROM unnest({places}) AS c ({names}){after}")
}

fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

fn ends_in_word(text: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

/// The server's name for the `max(` or `min(` at the beginning of `text`, if it has two arguments.
fn two(text: &str) -> Option<&'static str> {
    let (name, inside) = match (text.strip_prefix("max("), text.strip_prefix("min(")) {
        (Some(inside), _) => ("greatest", inside),
        (_, Some(inside)) => ("least", inside),
        _ => return None,
    };
    let mut depth = 0_u32;
    for c in inside.chars() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return None,
            ')' => depth -= 1,
            ',' if depth == 0 => return Some(name),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_become_those_of_a_server() {
        let cases: [(&str, &str, &[&str]); 9] = [
            ("a IN (SELECT value FROM json_each(?2))", "a IN (SELECT unnest($2))", &[]),
            (
                "SELECT a FROM b WHERE c = ?1 AND d > ?2",
                "SELECT a FROM b WHERE c = $1 AND d > $2",
                &[],
            ),
            ("a = ? AND b IN (?, '*')", "a = $1 AND b IN ($2, '*')", &[]),
            (
                "a = :one AND b = :two AND c = :one",
                "a = $1 AND b = $2 AND c = $1",
                &[":one", ":two"],
            ),
            ("a = '?1 :x max(a, b)' AND b = ?11", "a = '?1 :x max(a, b)' AND b = $11", &[]),
            ("SET a = max(a, min(?2, b))", "SET a = greatest(a, least($2, b))", &[]),
            ("SELECT max(serial), cmax(a, b)", "SELECT max(serial), cmax(a, b)", &[]),
            ("a CROSS JOIN b ON c", "a JOIN b ON c", &[]),
            ("SELECT :a::jsonb", "SELECT $1::jsonb", &[":a"]),
        ];
        for (sql, text, names) in cases {
            let got = ServerStatement::of(sql);
            assert_eq!(
                (&*got.text, got.names),
                (text, names.iter().map(|n| (*n).to_owned()).collect())
            );
        }
    }

    #[test]
    fn a_statement_for_one_row_becomes_one_for_all() {
        let columns = [
            SqlValue::column(vec![SqlValue::Integer(Some(1)), SqlValue::Integer(None)]),
            SqlValue::column(vec![SqlValue::Text(None), SqlValue::Text(Some("x".into()))]),
        ];
        let sql = "INSERT INTO a (b, c, d) VALUES (?1, (SELECT e FROM f WHERE g = ?2), 1) \
                   ON CONFLICT (b) DO UPDATE SET c = excluded.c";
        assert_eq!(
            ServerStatement::of(&of_columns(sql, &columns)).text,
            "INSERT INTO a (b, c, d) SELECT c1, (SELECT e FROM f WHERE g = c2), 1 \
             FROM unnest($1::bigint[], $2::text[]) AS c (c1, c2) ON CONFLICT (b) DO UPDATE SET c = excluded.c"
        );
    }
}
