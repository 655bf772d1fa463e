//! Pages of keys: the conditions of a query as SQL, and the place of a page in its order.

use rusqlite::params_from_iter;
use rusqlite::types::Value;

use super::super::error::StoreError;
use super::super::query::{Cursor, CursorPlace, KeyCount, KeyPage, KeyQuery, KeySort, KeyState};
use super::connection::StoreConnection;
use super::keys::{COLUMNS, JOINS, NumberedKey, decode, folded};

/// Fewer characters than an index of three of them can find.
const TRIGRAM: usize = 3;

/// Conditions with their values.
struct Conditions {
    /// What goes in front of `key k`: the index by which a search begins.
    from: &'static str,
    texts: Vec<String>,
    values: Vec<Value>,
}

pub(super) fn page(store: &StoreConnection, query: &KeyQuery) -> Result<KeyPage, StoreError> {
    let settings = store.settings(&query.audience)?;
    let mut conditions = Conditions::of(query);
    if let Some(cursor) = &query.cursor {
        conditions.behind(&cursor.place(query.sort)?);
    }
    let limit = query.limit.clamp(1, KeyQuery::MOST);
    let order = match query.sort {
        KeySort::Expires => "k.expires, k.row",
        KeySort::Name => "k.folded, k.row",
        KeySort::Newest => "k.since DESC, k.row DESC",
        KeySort::Oldest => "k.since, k.row",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM {} key k {JOINS} WHERE {} ORDER BY {order} LIMIT {}",
        conditions.from,
        conditions.texts.join(" AND "),
        limit + 1
    );
    let mut statement = store.connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(conditions.values))?;
    let mut found: Vec<NumberedKey> = Vec::with_capacity(limit + 1);
    while let Some(row) = rows.next()? {
        found.push(decode(row, &settings)?);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| Cursor::at(&place(query.sort, last)));
    Ok(KeyPage { keys: found.into_iter().map(|found| found.key).collect(), next })
}

pub(super) fn count(store: &StoreConnection, query: &KeyQuery) -> Result<KeyCount, StoreError> {
    store.settings(&query.audience)?;
    let conditions = Conditions::of(query);
    // The last use is the only condition on another table.
    let joins = match query.unused_since_ms {
        Some(_) => "LEFT JOIN usage_last u ON u.key = k.row",
        None => "",
    };
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {} key k {joins} WHERE {} LIMIT {})",
        conditions.from,
        conditions.texts.join(" AND "),
        KeyCount::MOST + 1
    );
    let mut statement = store.connection.prepare_cached(&sql)?;
    let number: u64 = statement.query_row(params_from_iter(conditions.values), |row| row.get(0))?;
    Ok(if number > KeyCount::MOST { KeyCount::More } else { KeyCount::Exactly(number) })
}

fn place(sort: KeySort, last: &NumberedKey) -> CursorPlace {
    let entry = &last.key.entry;
    let seconds = match sort {
        KeySort::Expires => entry.expires,
        KeySort::Newest | KeySort::Oldest => entry.created,
        KeySort::Name => None,
    };
    let text = match sort {
        KeySort::Name => folded(&entry.name),
        KeySort::Expires | KeySort::Newest | KeySort::Oldest => String::new(),
    };
    let number = seconds.map_or(0, super::keys::ms);
    CursorPlace { sort, text, number, row: last.row }
}

// === impl Conditions ===

impl Conditions {
    fn of(query: &KeyQuery) -> Self {
        let mut all = Self { from: "", texts: Vec::new(), values: Vec::new() };
        all.add("k.audience = ?", [query.audience.as_str().to_owned().into()]);
        if let Some(org) = &query.org {
            all.add("k.org = ?", [org.as_str().to_owned().into()]);
        }
        if let Some(search) = query.search.as_deref().map(str::trim).filter(|s| !s.is_empty()) {
            all.search(&folded(search));
        }
        if let Some(state) = query.state {
            all.state(state, query.now_ms);
        }
        if let Some(permission) = &query.permission {
            let held = "EXISTS (SELECT 1 FROM json_each(k.permissions) WHERE value IN (?, '*'))";
            all.add(held, [permission.as_str().to_owned().into()]);
        }
        if let Some(environment) = query.environment {
            all.add("k.environment = ?", [environment.as_str().to_owned().into()]);
        }
        if let Some(at) = query.expires_before_ms {
            all.add("k.expires < ?", [number(at)]);
        }
        if let Some(at) = query.unused_since_ms {
            all.add("(u.at IS NULL OR u.at < ?)", [number(at)]);
        }
        if let Some(owner) = &query.owner {
            all.add("k.owner_subject = ?", [owner.to_string().into()]);
        }
        if query.sort == KeySort::Expires {
            all.add("k.expires IS NOT NULL", []);
        }
        all
    }

    fn add<const N: usize>(&mut self, text: &str, values: [Value; N]) {
        self.texts.push(text.to_owned());
        self.values.extend(values);
    }

    /// With the index of the search as the outer loop: SQLite would walk over all keys of the org
    /// and ask the index for each.
    fn search(&mut self, folded: &str) {
        if folded.chars().count() < TRIGRAM {
            let end = format!("{folded}{}", char::MAX);
            return self
                .add("k.folded >= ? AND k.folded < ?", [folded.to_owned().into(), end.into()]);
        }
        self.from = "key_text t CROSS JOIN";
        // A phrase: nothing in it is an operator.
        let phrase = format!("\"{}\"", folded.replace('"', "\"\""));
        self.add("t.key_text MATCH ? AND k.row = t.rowid", [phrase.into()]);
    }

    fn state(&mut self, state: KeyState, now_ms: u64) {
        let now = number(now_ms);
        match state {
            KeyState::Active => self.add(
                "k.status = 'active' AND (k.expires IS NULL OR k.expires > ?) \
                 AND (k.not_before IS NULL OR k.not_before <= ?)",
                [now.clone(), now],
            ),
            KeyState::Canary => self.add("k.status = 'canary'", []),
            KeyState::Disabled => self.add("k.status = 'disabled'", []),
            KeyState::Expired => self.add("k.status = 'active' AND k.expires <= ?", [now]),
            KeyState::Kept => self.add("k.status IN ('active', 'disabled')", []),
            KeyState::NotYetValid => self.add(
                "k.status = 'active' AND k.not_before > ? AND (k.expires IS NULL OR k.expires > ?)",
                [now.clone(), now],
            ),
            KeyState::Revoked => self.add("k.status = 'revoked'", []),
        }
    }

    /// Only rows behind that place.
    fn behind(&mut self, place: &CursorPlace) {
        let row = number(place.row);
        match place.sort {
            KeySort::Expires => {
                self.add("(k.expires, k.row) > (?, ?)", [number(place.number), row]);
            }
            KeySort::Name => {
                self.add("(k.folded, k.row) > (?, ?)", [place.text.clone().into(), row]);
            }
            KeySort::Newest => {
                self.add("(k.since, k.row) < (?, ?)", [number(place.number), row]);
            }
            KeySort::Oldest => {
                self.add("(k.since, k.row) > (?, ?)", [number(place.number), row]);
            }
        }
    }
}

fn number(value: u64) -> Value {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}
