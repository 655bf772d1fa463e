//! A statement with its values, ready to be sent to a server.

use std::sync::Arc;

use bytes::BytesMut;
use tokio_postgres::Statement;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::super::dialect::ServerStatement;
use super::super::fault::{ServerError, SqlError};
use super::super::value::{BoundValues, SqlValue};

/// A statement ready to be sent.
pub(super) struct AskedStatement<'a> {
    pub(super) text: Arc<ServerStatement>,
    pub(super) prepared: Option<Statement>,
    pub(super) values: Vec<SqlValue<'a>>,
}

// === impl AskedStatement ===

impl AskedStatement<'_> {
    pub(super) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| value as _).collect()
    }

    pub(super) fn typed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.values.iter().map(|value| (value as _, value.server_type())).collect()
    }

    pub(super) fn into_owned(self) -> AskedStatement<'static> {
        let Self { text, prepared, values } = self;
        let values = values.into_iter().map(SqlValue::into_owned).collect();
        AskedStatement { text, prepared, values }
    }
}

/// In the order of the statement's places.
pub(super) fn ordered<'a>(
    statement: &ServerStatement,
    values: BoundValues<'a>,
) -> Result<Vec<SqlValue<'a>>, SqlError> {
    let values = match values {
        BoundValues::Ordered(values) => values,
        BoundValues::Named(mut values) => {
            let mut ordered = Vec::with_capacity(statement.names.len());
            for name in &statement.names {
                let Some(at) = values.iter().position(|(known, _)| known == name) else {
                    let what = format!("a statement has no value for {name}");
                    return Err(SqlError::Server(ServerError::Strange { what }));
                };
                ordered.push(values.swap_remove(at).1);
            }
            ordered
        }
    };
    if values.iter().any(|value| matches!(value, SqlValue::TooLarge)) {
        let what = "a number is too large for a column".to_owned();
        return Err(SqlError::Server(ServerError::Strange { what }));
    }
    Ok(values)
}

impl ToSql for SqlValue<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Integer(number) => number.to_sql(ty, out),
            Self::Text(text) => text.as_deref().to_sql(ty, out),
            Self::Blob(bytes) => bytes.as_deref().to_sql(ty, out),
            Self::TooLarge => Err("a number is too large for a column".into()),
            Self::Integers(list) => list.to_sql(ty, out),
            Self::Texts(list) => list.to_sql(ty, out),
            Self::IntegerColumn(list) => list.to_sql(ty, out),
            Self::TextColumn(list) => list.to_sql(ty, out),
            Self::BlobColumn(list) => list.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA, Type::INT8_ARRAY, Type::TEXT_ARRAY, Type::BYTEA_ARRAY]
            .contains(ty)
    }

    to_sql_checked!();
}
