//! Statements by a connection of their own.

use std::time::Duration;

use tokio_postgres::NoTls;

/// Runs statements, separated by semicolons, on a connection of their own, and answers the rows of text they gave, the
/// columns joined by `|`, a NULL as nothing.
///
/// # Errors
/// What the server, or the connection, said.
pub fn execute(url: &str, statements: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.connect_timeout(Duration::from_secs(5));
    // On a thread of its own: the caller may be inside a runtime.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(run(&config, statements))
        });
        thread.join().expect("it does not panic")
    })
}

async fn run(
    config: &tokio_postgres::Config,
    statements: &str,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(statements).await?;
    drop(client);
    // It ends when its client is gone; what it says then was said by the query.
    let _ended = connection.await;
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            let columns: Vec<_> = (0..row.len()).map(|column| row.get(column).unwrap_or_default()).collect();
            Some(columns.join("|"))
        }
        _ => None,
    });
    Ok(rows.collect())
}
