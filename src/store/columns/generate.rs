//! The macros that generate column lists, bound values and the decoding of rows from the tables of
//! columns.

/// Passes both groups of a job's columns to `writing`.
macro_rules! writing_all {
    ({ $($usual:tt)* } { $($rare:tt)* }) => { writing! { $($usual)* $($rare)* } };
}

/// Passes the first group of a job's columns to `writing`.
macro_rules! writing_usual {
    ({ $($usual:tt)* } { $($rare:tt)* }) => { writing! { $($usual)* } };
}

/// Passes both groups of a job's columns to `reading`.
macro_rules! reading_all {
    ({ $($usual:tt)* } { $($rare:tt)* } $($later:tt)*) => {
        reading! { $($usual)* $($rare)* $($later)* }
    };
}

/// Generates the function that says whether the second group of a job's columns is null.
macro_rules! comparing {
    ({ $($usual:tt)* } { $($name:ident: $type:literal = |$row:ident| $value:expr;)+ }) => {
        fn is_usual(job: &Job) -> bool {
            true $(&& { let $row = job; $value.is_none() })+
        }
    };
}

/// Generates the functions that bind values of the type `Row`.
macro_rules! writing {
    (
        $first:ident: $first_type:literal = |$first_row:ident| $first_value:expr;
        $($name:ident: $type:literal = |$row:ident| $value:expr;)*
    ) => {
        /// The names of the columns, in their order.
        pub(in crate::store) const COLUMNS: &str =
            concat!(stringify!($first) $(, ", ", stringify!($name))*);
        /// The types of the columns on PostgreSQL.
        pub(in crate::store) const POSTGRES_TYPES: &[&str] = &[$first_type $(, $type)*];

        /// Binds an array for each column.
        pub(in crate::store) fn bind_postgres<'q>(
            query: Query<'q, Postgres, PgArguments>,
            rows: &[Row<'q>],
        ) -> Query<'q, Postgres, PgArguments> {
            query
                .bind(rows.iter().copied().map(|$first_row| $first_value).collect::<Vec<_>>())
                $(.bind(rows.iter().copied().map(|$row| $value).collect::<Vec<_>>()))*
        }

        /// Binds the values of a row.
        pub(in crate::store) fn bind_mysql<'q>(
            query: Query<'q, MySql, MySqlArguments>,
            row: Row<'q>,
        ) -> Query<'q, MySql, MySqlArguments> {
            let $first_row = row;
            query.bind($first_value)$(.bind({ let $row = row; $value }))*
        }

        /// Executes a statement with the values of a row.
        pub(in crate::store) fn execute_sqlite(
            statement: &mut CachedStatement<'_>,
            row: Row<'_>,
        ) -> rusqlite::Result<usize> {
            let $first_row = row;
            statement.execute(params![$first_value $(, { let $row = row; $value })*])
        }
    };
}

/// Generates the functions that read jobs. `first` is the index of the first column in the row. The
/// columns behind the revision are null until it is above 0, and are not decoded before: nearly
/// every job is fired as it was admitted. Those of the mark are decoded always.
macro_rules! reading {
    (
        $first:ident: $first_type:literal = |$first_row:ident| $first_value:expr;
        $($name:ident: $type:literal = |$row:ident| $value:expr;)+
        @ $revision:ident: $($later:ident),+;
        $($mark:ident),+
    ) => {
        /// The columns, in the order in which they are read.
        pub(in crate::store) const READ: &str = concat!(
            stringify!($first) $(, ", ", stringify!($name))*,
            ", ", stringify!($revision) $(, ", ", stringify!($later))*
            $(, ", ", stringify!($mark))*
        );

        /// The index of each column.
        #[allow(non_camel_case_types, reason = "they are the columns' own names")]
        #[derive(Clone, Copy)]
        enum Place {
            $first,
            $($name,)+
            $revision,
            $($later,)+
            $($mark),+
        }

        pub(in crate::store) fn read_postgres(row: &PgRow, first: usize) -> sqlx::Result<Job> {
            let $revision = row.try_get(first + Place::$revision as usize)?;
            let is_changed = $revision != 0;
            Ok(job_of(job::Model {
                $first: row.try_get(first + Place::$first as usize)?,
                $($name: row.try_get(first + Place::$name as usize)?,)+
                $revision,
                $($later: match is_changed {
                    true => row.try_get(first + Place::$later as usize)?,
                    false => None,
                },)+
                $($mark: row.try_get(first + Place::$mark as usize)?),+
            }))
        }

        pub(in crate::store) fn read_mysql(row: &MySqlRow, first: usize) -> sqlx::Result<Job> {
            let $revision = row.try_get(first + Place::$revision as usize)?;
            let is_changed = $revision != 0;
            Ok(job_of(job::Model {
                $first: row.try_get(first + Place::$first as usize)?,
                $($name: row.try_get(first + Place::$name as usize)?,)+
                $revision,
                $($later: match is_changed {
                    true => row.try_get(first + Place::$later as usize)?,
                    false => None,
                },)+
                $($mark: row.try_get(first + Place::$mark as usize)?),+
            }))
        }

        pub(in crate::store) fn read_sqlite(row: &rusqlite::Row<'_>) -> rusqlite::Result<Job> {
            let $revision = row.get(Place::$revision as usize)?;
            let is_changed = $revision != 0;
            Ok(job_of(job::Model {
                $first: row.get(Place::$first as usize)?,
                $($name: row.get(Place::$name as usize)?,)+
                $revision,
                $($later: match is_changed {
                    true => row.get(Place::$later as usize)?,
                    false => None,
                },)+
                $($mark: row.get(Place::$mark as usize)?),+
            }))
        }
    };
}
