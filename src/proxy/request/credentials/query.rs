//! A query parameter as a carrier. Its name and value are compared after percent-decoding.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::proxy::http1::head::RequestHead;

pub(super) fn values<'r>(query: &'r str, name: &str) -> impl Iterator<Item = Cow<'r, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(key, name).then(|| percent_decode_str(value).into())
    })
}

/// One of our parameters after a `;`: some servers split a query there as well.
pub(super) fn hides_in(query: &str, name: &str, own: impl Fn(&[u8]) -> bool) -> bool {
    query.contains(';')
        && query.split('&').flat_map(|part| part.split(';').skip(1)).any(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            is_named(key, name) && own(&Cow::from(percent_decode_str(value)))
        })
}

pub(super) fn is_named(raw: &str, name: &str) -> bool {
    percent_decode_str(raw).eq(name.bytes())
}

pub(super) fn strip(head: &mut RequestHead, name: &str, drop: impl Fn(&[u8]) -> bool) {
    let Some(kept) = head.target.query().and_then(|q| without(q, name, drop)) else { return };
    head.target.set_query(Some(&*kept).filter(|kept| !kept.is_empty()));
}

/// The query without the parameters `name` for whose value `drop` says so. `None`: there are none.
pub(super) fn without(query: &str, name: &str, drop: impl Fn(&[u8]) -> bool) -> Option<String> {
    let keep = |pair: &&str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        !is_named(key, name) || !drop(&Cow::from(percent_decode_str(value)))
    };
    if query.split('&').all(|pair| keep(&pair)) {
        return None;
    }
    Some(query.split('&').filter(keep).collect::<Vec<_>>().join("&"))
}
