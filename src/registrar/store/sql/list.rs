//! Pages of keys: the conditions of a query as SQL, and the place of a page in its order.

#[cfg(test)]
mod tests;

use super::super::error::StoreError;
use super::super::names::AudienceName;
use super::super::query::{
    Cursor, CursorPlace, KeyCount, KeyPage, KeyQuery, KeySort, KeyState, UnusedKeys,
};
use super::connection::StoreConnection;
use super::driver::SearchIndex;
use super::fault::OptionalExtension as _;
use super::keys::{COLUMNS, JOINS, decode, folded};
use super::rows::NumberedKey;
use super::value::{SqlValue, ToValue as _};
use crate::core::OrgId;

/// An index of three characters each cannot find fewer than this.
const TRIGRAM: usize = 3;

/// Where the rows of an org begin in the index of a search, as `002.sql` numbers them.
const ORG_BITS: u32 = 36;

/// Conditions with their values.
struct Conditions {
    /// What precedes `key k`: the index with which a search begins.
    from: &'static str,
    texts: Vec<String>,
    values: Vec<SqlValue<'static>>,
}

/// How the index of a search tells an org's keys from others.
#[derive(Clone, Copy, Debug)]
struct OrgNumber {
    /// `None`: the org has never had a key.
    number: Option<u64>,
}

/// A statement with the values of its places.
struct ListStatement {
    sql: String,
    values: Vec<SqlValue<'static>>,
}

/// The rows of a page, plus one.
fn statement(
    store: &StoreConnection,
    query: &KeyQuery,
    limit: usize,
) -> Result<ListStatement, StoreError> {
    let mut conditions = Conditions::of(store, query)?;
    if let Some(cursor) = &query.cursor {
        conditions.behind(&cursor.place(query.sort)?);
    }
    let order = match query.sort {
        KeySort::Expires => "k.expires, k.row",
        KeySort::Name => "k.folded, k.row",
        KeySort::Newest => "k.since DESC, k.row DESC",
        KeySort::Oldest => "k.since, k.row",
    };
    // The columns to show are read for the page's keys alone, not for everything that a search
    // found.
    let sql = format!(
        "SELECT {COLUMNS} FROM (SELECT k.row AS found FROM {} key k {} WHERE {} ORDER BY {order} \
         LIMIT ?) AS f CROSS JOIN key k ON k.row = f.found {JOINS} ORDER BY {order}",
        conditions.from,
        last_use(query),
        conditions.texts.join(" AND "),
    );
    conditions.values.push((limit as u64 + 1).to_value());
    Ok(ListStatement { sql, values: conditions.values })
}

pub(super) fn page(store: &StoreConnection, query: &KeyQuery) -> Result<KeyPage, StoreError> {
    let settings = store.settings(&query.audience)?;
    let limit = query.limit.clamp(1, KeyQuery::MOST);
    let ListStatement { sql, values } = statement(store, query, limit)?;
    let mut statement = store.connection.prepare_planned(&sql)?;
    let mut rows = statement.query(values)?;
    let mut found: Vec<NumberedKey> = Vec::with_capacity(limit + 1);
    while let Some(row) = rows.next()? {
        found.push(decode(&row, &settings)?);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| Cursor::at(&place(query.sort, last)));
    Ok(KeyPage { keys: found.into_iter().map(|found| found.key).collect(), next })
}

pub(super) fn count(store: &StoreConnection, query: &KeyQuery) -> Result<KeyCount, StoreError> {
    store.settings(&query.audience)?;
    let conditions = Conditions::of(store, query)?;
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {} key k {} WHERE {} LIMIT {}) AS c",
        conditions.from,
        last_use(query),
        conditions.texts.join(" AND "),
        KeyCount::MOST + 1
    );
    let mut statement = store.connection.prepare_planned(&sql)?;
    let number: u64 = statement.query_row(conditions.values, |row| row.get(0))?;
    Ok(if number > KeyCount::MOST { KeyCount::More } else { KeyCount::Exactly(number) })
}

/// The join for the only condition on another table.
fn last_use(query: &KeyQuery) -> &'static str {
    match query.unused {
        Some(_) => "LEFT JOIN usage_last u ON u.key = k.row",
        None => "",
    }
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

// === impl OrgNumber ===

impl OrgNumber {
    fn of(
        store: &StoreConnection,
        audience: &AudienceName,
        org: &OrgId,
    ) -> Result<Self, StoreError> {
        let number = store
            .connection
            .prepare_cached("SELECT number FROM key_org WHERE audience = ?1 AND org = ?2")?
            .query_row((audience.as_str(), org.as_str()), |row| row.get(0))
            .optional()?;
        Ok(Self { number })
    }
}

// === impl Conditions ===

impl Conditions {
    fn of(store: &StoreConnection, query: &KeyQuery) -> Result<Self, StoreError> {
        let index = store.search_index();
        let org = match (&query.org, &query.search) {
            (Some(org), Some(_)) if index == SearchIndex::Fts => {
                Some(OrgNumber::of(store, &query.audience, org)?)
            }
            _ => None,
        };
        let mut all = Self { from: "", texts: Vec::new(), values: Vec::new() };
        all.add("k.audience = ?", [query.audience.as_str().to_owned().into()]);
        if let Some(org) = &query.org {
            all.add("k.org = ?", [org.as_str().to_owned().into()]);
        }
        if let Some(search) = query.search.as_deref().map(str::trim).filter(|s| !s.is_empty()) {
            match index {
                SearchIndex::Fts => all.search(&folded(search), org),
                SearchIndex::Trigrams => all.search_trigrams(&folded(search)),
                SearchIndex::Prefixes => all.search_prefixes(search),
            }
        }
        if let Some(state) = query.state {
            all.state(state, query.now_ms);
        }
        if let Some(permission) = &query.permission {
            let held = match store.connection.is_server() {
                true => "jsonb_array_elements_text(CAST(k.permissions AS JSONB)) AS p (value)",
                false => "json_each(k.permissions)",
            };
            let held = format!("EXISTS (SELECT 1 FROM {held} WHERE value IN (?, '*'))");
            all.add(&held, [permission.as_str().to_owned().into()]);
        }
        if let Some(environment) = query.environment {
            all.add("k.environment = ?", [environment.as_str().to_owned().into()]);
        }
        if let Some(at) = query.expires_before_ms {
            all.add("k.expires < ?", [number(at)]);
        }
        match query.unused {
            Some(UnusedKeys::Never) => all.add("u.at IS NULL", []),
            Some(UnusedKeys::Since(at)) => {
                all.add("(u.at IS NULL OR u.at < ?)", [number(at)]);
                // The `+` keeps SQLite from sorting what it finds by age, instead of walking in
                // another order until the page is full.
                let by_age = matches!(query.sort, KeySort::Newest | KeySort::Oldest);
                let plus = if by_age || store.connection.is_server() { "" } else { "+" };
                all.add(&format!("{plus}k.since <= ?"), [number(at)]);
            }
            None => {}
        }
        if let Some(owner) = &query.owner {
            all.add("k.owner_subject = ?", [owner.to_string().into()]);
        }
        if query.sort == KeySort::Expires {
            all.add("k.expires IS NOT NULL", []);
        }
        Ok(all)
    }

    fn add<const N: usize>(&mut self, text: &str, values: [SqlValue<'static>; N]) {
        self.texts.push(text.to_owned());
        self.values.extend(values);
    }

    /// With the search's index as the outer loop. Otherwise SQLite would walk over all keys of the
    /// org and query the index for each.
    fn search(&mut self, folded: &str, org: Option<OrgNumber>) {
        if folded.chars().count() < TRIGRAM {
            return self.begins_with("k.folded", folded);
        }
        self.from = "key_text t CROSS JOIN";
        // A phrase: nothing in it acts as an operator.
        let phrase = format!("\"{}\"", folded.replace('"', "\"\""));
        let row = format!("k.row = t.rowid & {}", (1_u64 << ORG_BITS) - 1);
        self.add(&format!("t.key_text MATCH ? AND {row}"), [phrase.into()]);
        if let Some(org) = org {
            // An org without keys has no number, so nothing is found.
            let begin = org.number.unwrap_or(0) << ORG_BITS;
            let end = begin + (1 << ORG_BITS);
            self.add("t.rowid >= ? AND t.rowid < ?", [number(begin), number(end)]);
        }
    }

    /// With PostgreSQL's trigram index, which it combines with its other indexes itself.
    fn search_trigrams(&mut self, folded: &str) {
        if folded.chars().count() < TRIGRAM {
            return self.begins_with("k.folded", folded);
        }
        let mut pattern = String::from("%");
        for c in folded.chars() {
            if matches!(c, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('%');
        self.add(
            "(k.folded LIKE ? OR k.id ILIKE ? OR k.start ILIKE ?)",
            [pattern.clone().into(), pattern.clone().into(), pattern.into()],
        );
    }

    /// Without such an index: what begins with the text.
    fn search_prefixes(&mut self, text: &str) {
        let range = |text: &str| -> [SqlValue<'static>; 2] {
            [text.to_owned().into(), format!("{text}{}", char::MAX).into()]
        };
        let ([a, b], [c, d], [e, f]) = (range(&folded(text)), range(text), range(text));
        self.add(
            "(k.folded >= ? AND k.folded < ? OR k.id >= ? AND k.id < ? OR k.start >= ? AND \
             k.start < ?)",
            [a, b, c, d, e, f],
        );
    }

    fn begins_with(&mut self, column: &str, text: &str) {
        let end = format!("{text}{}", char::MAX);
        let is = format!("{column} >= ? AND {column} < ?");
        self.add(&is, [text.to_owned().into(), end.into()]);
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

    /// Only rows after that place.
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

fn number(value: u64) -> SqlValue<'static> {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}
