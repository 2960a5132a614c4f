//! Completion on a transaction of sqlx, by the statement and the parameters that are exposed.

use oncekey::{Answer, Deduplicator, Earlier, Prepared, Settled};
use oncekey_postgres::sql::Complete;
use sqlx_core::connection::Connection as _;
use sqlx_core::query::query;
use sqlx_postgres::{PgConnection, Postgres};

use crate::support::{Tables, block_on, database, granted, key};

async fn complete_on(
    connection: &mut PgConnection,
    sql: &str,
    prepared: &Prepared,
) -> Result<u64, sqlx_core::Error> {
    let row = Complete::of(prepared);
    let done = query::<Postgres>(sql)
        .bind(&row.key)
        .bind(row.expected)
        .bind(row.live_us)
        .bind(row.gone_us)
        .bind(&row.body)
        .bind(&row.people)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

#[test]
fn a_transaction_of_sqlx_completes_a_claim() {
    block_on(async {
        let tables = Tables::new().await;
        let dedup = Deduplicator::builder(tables.store()).tokio().build().unwrap();
        let mut connection = PgConnection::connect(database().url()).await.unwrap();
        let effects = format!("CREATE TABLE \"{}\".effects (id text)", tables.name);
        let _made = query::<Postgres>(&effects).execute(&mut connection).await.unwrap();
        let effect = format!("INSERT INTO \"{}\".effects VALUES ('x')", tables.name);

        let mut claim = granted(&dedup, &key("sqlx")).await;
        let prepared = claim.prepare("\"receipt\"").await.unwrap();
        let sql = dedup.store().completion_sql();

        // Rolled back first, then for good.
        let mut transaction = connection.begin().await.unwrap();
        assert_eq!(complete_on(&mut transaction, sql, &prepared).await.unwrap(), 1);
        transaction.rollback().await.unwrap();
        assert_eq!(claim.settle(&prepared).await.unwrap(), Settled::NotCommitted);

        // Settled moved the version on: what was prepared then touches no row.
        let mut transaction = connection.begin().await.unwrap();
        assert_eq!(complete_on(&mut transaction, sql, &prepared).await.unwrap(), 0);
        transaction.rollback().await.unwrap();

        let prepared = claim.prepare("\"receipt\"").await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let _done = query::<Postgres>(&effect).execute(&mut *transaction).await.unwrap();
        assert_eq!(complete_on(&mut transaction, sql, &prepared).await.unwrap(), 1);
        transaction.commit().await.unwrap();
        assert_eq!(claim.settle(&prepared).await.unwrap(), Settled::Committed);

        let again =
            dedup.request(key("sqlx")).json().run(|_| async { Ok::<_, std::io::Error>(String::new()) });
        let again = again.await.unwrap();
        assert!(
            matches!(&again, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "receipt"),
            "{again:?}"
        );
    });
}
