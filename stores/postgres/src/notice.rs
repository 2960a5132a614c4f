//! Waking waiters by LISTEN and NOTIFY.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use oncekey::{Deduplicator, Key, Store};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, Client, Connection};

use crate::error::ListenError;
use crate::schema::Name;

/// Wakes the waiters of an engine as soon as an attempt ends elsewhere: a future to spawn, over a connection of its own
/// that it drives. The stores that write must [`notify`](crate::Builder::notify) the same channel.
///
/// A hint, and no more: without it, and while it is not connected, waiters look again at their poll interval. It ends with
/// its connection; to connect again is the caller's.
///
/// Not through pgbouncer in transaction mode, which does not keep LISTEN.
///
/// ```no_run
/// # use oncekey_postgres::{Connections, PostgresStore, listen};
/// # async fn demo<C: Connections>(dedup: oncekey::Deduplicator<PostgresStore<C>>) {
/// tokio::spawn(async move {
///     loop {
///         if let Ok((client, connection)) = tokio_postgres::connect("host=db", tokio_postgres::NoTls).await {
///             let _ended = listen(client, connection, "oncekey", &dedup).await;
///         }
///         tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///     }
/// });
/// # }
/// ```
///
/// # Errors
/// [`ListenError`]: the name of the channel, or what ended the connection.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn listen<S, T, D>(
    client: Client,
    mut connection: Connection<S, T>,
    channel: &str,
    dedup: &Deduplicator<D>,
) -> Result<(), ListenError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
    D: Store + 'static,
{
    let name = Name::new(channel)?;
    let command = format!("LISTEN {name}");
    let command = pin!(client.batch_execute(&command));
    let mut command = Some(command);
    poll_fn(|cx| {
        loop {
            // It is answered by the connection below, which wakes this task.
            if let Some(running) = &mut command {
                if let Poll::Ready(answer) = running.as_mut().poll(cx) {
                    command = None;
                    if let Err(error) = answer {
                        return Poll::Ready(Err(ListenError::Database(error)));
                    }
                }
            }
            match connection.poll_message(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(ListenError::Database(error))),
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notice)))) if notice.channel() == channel => {
                    if let Some(key) = key_of(notice.payload()) {
                        dedup.changed(&key);
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
            }
        }
    })
    .await
}

/// The key in a notice: its bytes in hexadecimal. Whatever else somebody sends on the channel is passed over.
fn key_of(payload: &str) -> Option<Key> {
    let digits = payload.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok());
    let bytes: Option<Vec<u8>> =
        digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect();
    Key::from_bytes(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_a_key_or_nothing() {
        let key = Key::new("a", "b\u{e9}").unwrap();
        let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(key_of(&hex), Some(key));
        for other in ["", "0", "zz", "00", "é", "0161"] {
            assert_eq!(key_of(other), None, "{other:?}");
        }
    }
}
