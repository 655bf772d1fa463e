//! What goes into a statement and what a row returns, whichever database it is: 64-bit integers,
//! text and bytes. Imports nothing from the service.

use std::borrow::Cow;

use rusqlite::types::{ToSqlOutput, ValueRef};
use tokio_postgres::types::Type;

use super::fault::SqlError;

/// A value with its type, so that a server knows the type of a null.
#[derive(Clone, Debug)]
pub(in super::super) enum SqlValue<'a> {
    Integer(Option<i64>),
    Text(Option<Cow<'a, str>>),
    Blob(Option<Cow<'a, [u8]>>),
    /// A number that no column can hold.
    TooLarge,
    /// A list, as `json_each` of SQLite and `ANY` of a server take them.
    Integers(Vec<i64>),
    Texts(Vec<String>),
    /// For a server: one column of several rows.
    IntegerColumn(Vec<Option<i64>>),
    TextColumn(Vec<Option<String>>),
    BlobColumn(Vec<Option<Vec<u8>>>),
}

/// What a column may hold.
pub(in super::super) trait ToValue<'a> {
    /// Replaces a missing value.
    const NULL: SqlValue<'static>;
    fn to_value(self) -> SqlValue<'a>;
}

/// The values of a statement's places.
#[derive(Clone, Debug)]
pub(in super::super) enum BoundValues<'a> {
    /// For `?1`, `?2`, … or one `?` after the other.
    Ordered(Vec<SqlValue<'a>>),
    /// For `:name`. Names that the statement does not have are skipped.
    Named(Vec<(&'static str, SqlValue<'a>)>),
}

pub(in super::super) trait Params<'a> {
    fn bound(self) -> BoundValues<'a>;
}

/// The types that a column can be read as.
pub(in super::super) trait FromColumn: rusqlite::types::FromSql {
    /// The server's type for it.
    type Stored: for<'a> tokio_postgres::types::FromSql<'a>;

    /// `None`: the service did not write this value.
    fn of_stored(stored: Self::Stored) -> Option<Self>;

    fn of_sqlite<I: rusqlite::RowIndex>(
        row: &rusqlite::Row<'_>,
        column: I,
    ) -> Result<Self, SqlError> {
        Ok(row.get(column)?)
    }

    fn of_server<I: tokio_postgres::row::RowIndex + std::fmt::Display>(
        row: &tokio_postgres::Row,
        column: I,
    ) -> Result<Self, SqlError> {
        let strange = SqlError::column(&column);
        Self::of_stored(row.try_get(column)?).ok_or(strange)
    }
}

/// Values for names such as `":id"`.
macro_rules! named_values {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::registrar::store::sql::value::BoundValues::Named(vec![$((
            $name,
            $crate::registrar::store::sql::value::ToValue::to_value($value),
        )),*])
    };
}
pub(in super::super) use named_values;

// === impl SqlValue ===

impl SqlValue<'_> {
    pub(super) fn into_owned(self) -> SqlValue<'static> {
        match self {
            Self::Integer(number) => SqlValue::Integer(number),
            Self::Text(text) => SqlValue::Text(text.map(|text| text.into_owned().into())),
            Self::Blob(bytes) => SqlValue::Blob(bytes.map(|bytes| bytes.into_owned().into())),
            Self::TooLarge => SqlValue::TooLarge,
            Self::Integers(list) => SqlValue::Integers(list),
            Self::Texts(list) => SqlValue::Texts(list),
            Self::IntegerColumn(list) => SqlValue::IntegerColumn(list),
            Self::TextColumn(list) => SqlValue::TextColumn(list),
            Self::BlobColumn(list) => SqlValue::BlobColumn(list),
        }
    }

    /// The server's type for it.
    pub(super) const fn server_type(&self) -> Type {
        match self {
            Self::Integer(_) | Self::TooLarge => Type::INT8,
            Self::Text(_) => Type::TEXT,
            Self::Blob(_) => Type::BYTEA,
            Self::Integers(_) | Self::IntegerColumn(_) => Type::INT8_ARRAY,
            Self::Texts(_) | Self::TextColumn(_) => Type::TEXT_ARRAY,
            Self::BlobColumn(_) => Type::BYTEA_ARRAY,
        }
    }

    /// For `IN (SELECT value FROM json_each(?))`.
    pub(super) fn integers(list: impl IntoIterator<Item = u64>) -> Self {
        let list: Result<_, _> = list.into_iter().map(i64::try_from).collect();
        list.map_or(Self::TooLarge, Self::Integers)
    }

    /// For `IN (SELECT value FROM json_each(?))`.
    pub(super) fn texts(list: impl IntoIterator<Item = String>) -> Self {
        Self::Texts(list.into_iter().collect())
    }

    /// The values of one column in several rows. All must be of the same kind.
    pub(super) fn column(values: Vec<SqlValue<'_>>) -> SqlValue<'static> {
        let strange = SqlValue::TooLarge;
        match values.first() {
            Some(SqlValue::Integer(_)) => {
                let list = values.into_iter().map(|value| match value {
                    SqlValue::Integer(number) => Some(number),
                    _ => None,
                });
                list.collect::<Option<_>>().map_or(strange, SqlValue::IntegerColumn)
            }
            Some(SqlValue::Text(_)) => {
                let list = values.into_iter().map(|value| match value {
                    SqlValue::Text(text) => Some(text.map(Cow::into_owned)),
                    _ => None,
                });
                list.collect::<Option<_>>().map_or(strange, SqlValue::TextColumn)
            }
            Some(SqlValue::Blob(_)) => {
                let list = values.into_iter().map(|value| match value {
                    SqlValue::Blob(bytes) => Some(bytes.map(Cow::into_owned)),
                    _ => None,
                });
                list.collect::<Option<_>>().map_or(strange, SqlValue::BlobColumn)
            }
            _ => strange,
        }
    }
}

impl rusqlite::ToSql for SqlValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let json = |list: serde_json::Value| Ok(ToSqlOutput::from(list.to_string()));
        let value = match self {
            Self::Integers(list) => return json(list.as_slice().into()),
            Self::Texts(list) => return json(list.as_slice().into()),
            Self::Integer(Some(number)) => ValueRef::Integer(*number),
            Self::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Self::Blob(Some(bytes)) => ValueRef::Blob(bytes),
            Self::Integer(None) | Self::Text(None) | Self::Blob(None) => ValueRef::Null,
            Self::TooLarge | Self::IntegerColumn(_) | Self::TextColumn(_) | Self::BlobColumn(_) => {
                let what = "a number is too large for a column";
                return Err(rusqlite::Error::ToSqlConversionFailure(what.into()));
            }
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

impl From<String> for SqlValue<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<i64> for SqlValue<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl<'a> ToValue<'a> for $type {
            const NULL: SqlValue<'static> = SqlValue::Integer(None);

            fn to_value(self) -> SqlValue<'a> {
                i64::try_from(self).map_or(SqlValue::TooLarge, |n| SqlValue::Integer(Some(n)))
            }
        }

        impl<'a> ToValue<'a> for &$type {
            const NULL: SqlValue<'static> = SqlValue::Integer(None);

            fn to_value(self) -> SqlValue<'a> {
                (*self).to_value()
            }
        }
    )*};
}
integers!(u8, u32, u64, usize, bool);

macro_rules! borrowed {
    ($($kind:ident: $type:ty, $as:ident);* $(;)?) => {$(
        impl<'a> ToValue<'a> for &'a $type {
            const NULL: SqlValue<'static> = SqlValue::$kind(None);

            fn to_value(self) -> SqlValue<'a> {
                SqlValue::$kind(Some(Cow::Borrowed(self.$as())))
            }
        }
    )*};
}
borrowed! {
    Text: str, as_ref;
    Text: String, as_str;
    Text: Box<str>, as_ref;
    Blob: [u8], as_ref;
    Blob: Vec<u8>, as_slice;
}

impl<'a> ToValue<'a> for String {
    const NULL: SqlValue<'static> = SqlValue::Text(None);

    fn to_value(self) -> SqlValue<'a> {
        SqlValue::Text(Some(Cow::Owned(self)))
    }
}

impl<'a, const N: usize> ToValue<'a> for [u8; N] {
    const NULL: SqlValue<'static> = SqlValue::Blob(None);

    fn to_value(self) -> SqlValue<'a> {
        SqlValue::Blob(Some(Cow::Owned(self.to_vec())))
    }
}

impl<'a, T: ToValue<'a>> ToValue<'a> for Option<T> {
    const NULL: SqlValue<'static> = T::NULL;

    fn to_value(self) -> SqlValue<'a> {
        self.map_or(T::NULL, T::to_value)
    }
}

// === impl Params ===

impl<'a> Params<'a> for BoundValues<'a> {
    fn bound(self) -> BoundValues<'a> {
        self
    }
}

impl<'a> Params<'a> for Vec<SqlValue<'a>> {
    fn bound(self) -> BoundValues<'a> {
        BoundValues::Ordered(self)
    }
}

impl<'a> Params<'a> for [&'static str; 0] {
    fn bound(self) -> BoundValues<'a> {
        BoundValues::Ordered(Vec::new())
    }
}

impl<'a, T: ToValue<'a>> Params<'a> for [T; 1] {
    fn bound(self) -> BoundValues<'a> {
        BoundValues::Ordered(self.into_iter().map(T::to_value).collect())
    }
}

macro_rules! tuples {
    ($($($name:ident)+;)*) => {$(
        impl<'a, $($name: ToValue<'a>),+> Params<'a> for ($($name,)+) {
            fn bound(self) -> BoundValues<'a> {
                #[expect(non_snake_case, reason = "a value by the name of its type")]
                let ($($name,)+) = self;
                BoundValues::Ordered(vec![$($name.to_value()),+])
            }
        }
    )*};
}
tuples! {
    A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H;
    A B C D E F G H I; A B C D E F G H I J; A B C D E F G H I J K; A B C D E F G H I J K L;
    A B C D E F G H I J K L M; A B C D E F G H I J K L M N;
}

// === impl FromColumn ===

impl<T: FromColumn> FromColumn for Option<T> {
    type Stored = Option<T::Stored>;

    fn of_stored(stored: Self::Stored) -> Option<Self> {
        match stored {
            Some(stored) => T::of_stored(stored).map(Some),
            None => Some(None),
        }
    }
}

macro_rules! columns {
    ($($type:ty, $stored:ty, $of:expr);* $(;)?) => {$(
        impl FromColumn for $type {
            type Stored = $stored;

            fn of_stored(stored: $stored) -> Option<Self> {
                let of: fn($stored) -> Option<Self> = $of;
                of(stored)
            }
        }
    )*};
}
columns! {
    u64, i64, |n| u64::try_from(n).ok();
    u32, i64, |n| u32::try_from(n).ok();
    bool, i64, |n| Some(n != 0);
    String, String, Some;
    Vec<u8>, Vec<u8>, Some;
    [u8; 16], Vec<u8>, |bytes| bytes.try_into().ok();
    [u8; 32], Vec<u8>, |bytes| bytes.try_into().ok();
}
