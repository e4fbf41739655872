//! Parameters and columns of the participant's statements.

use uuid::Uuid;

use super::Error;

/// A parameter of a statement. Its type in SQL is the one that the statement asks for, and it is the one
/// that is named here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter<'a> {
    /// `text`.
    Text(&'a str),
    /// `bytea`.
    Bytes(&'a [u8]),
    /// `bigint`, or NULL.
    Int(Option<i64>),
    /// `uuid`.
    Uuid(Uuid),
    /// `text[]`.
    Texts(&'a [String]),
    /// `uuid[]`.
    Uuids(&'a [Uuid]),
}

/// A column of a row, by its type in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// NULL, of any type.
    Null,
    /// `boolean`.
    Bool(bool),
    /// `bigint`, and the smaller types of whole numbers.
    Int(i64),
    /// `text`, `varchar` and `name`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `uuid`.
    Uuid(Uuid),
}

/// Columns of a row, in their order.
pub type Row = Vec<Value>;

/// The error of a driver for a column whose type no [`Value`] has.
pub(crate) fn column_error(found: impl std::fmt::Display) -> Error {
    Error::other(format!("a column has the type {found}, and no statement asks for one of it"))
}

/// Reads a column.
pub(crate) trait FromValue: Sized {
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $variant:ident,)*) => {
        $(
            impl FromValue for $type {
                fn from_value(value: Value) -> Option<Self> {
                    match value {
                        Value::$variant(value) => Some(value),
                        _ => None,
                    }
                }
            }
        )*
    };
}

from_value! { bool: Bool, i64: Int, String: Text, Vec<u8>: Bytes, Uuid: Uuid, }

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// Reads a row.
pub(crate) trait FromRow: Sized {
    fn from_row(row: Row) -> Result<Self, Error>;
}

macro_rules! from_row {
    ($($type:ident)*) => {
        impl<$($type: FromValue),*> FromRow for ($($type,)*) {
            fn from_row(row: Row) -> Result<Self, Error> {
                let mut columns = row.into_iter();
                Ok(($(read::<$type>(columns.next())?,)*))
            }
        }
    };
}

from_row!(A);
from_row!(A B);
from_row!(A B C);
from_row!(A B C D);
from_row!(A B C D E);
from_row!(A B C D E F);
from_row!(A B C D E F G);
from_row!(A B C D E F G H);

fn read<T: FromValue>(column: Option<Value>) -> Result<T, Error> {
    let of_the_statement = column.and_then(T::from_value);
    of_the_statement.ok_or_else(|| Error::other("a row has not the columns of its statement"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_by_its_types_or_not_at_all() {
        let row = || vec![Value::Int(7), Value::Text("seven".to_owned()), Value::Null];
        let read = <(i64, String, Option<bool>)>::from_row(row()).expect("a row");
        assert_eq!(read, (7, "seven".to_owned(), None));
        assert!(<(i64, i64, Option<bool>)>::from_row(row()).is_err());
        assert!(<(i64, String, bool)>::from_row(row()).is_err(), "NULL is no value");
        assert!(
            <(i64, String, Option<bool>, i64)>::from_row(row()).is_err(),
            "a column is missing"
        );
    }
}
