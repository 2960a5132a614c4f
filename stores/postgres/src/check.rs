//! What the server's settings mean for what was promised.

use std::fmt;

use oncekey::store::DurabilityClass;

use crate::connections::Connections;
use crate::lent::Who;
use crate::schema::MIGRATIONS;
use crate::sql::Statement;
use crate::{Error, PostgresStore, row};

/// What [`PostgresStore::check`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Checked {
    /// How durable an acknowledged write is, as this connection is set.
    pub durability: DurabilityClass,
    /// What is not as it should be, worst first.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Finding {
    /// The tables lack migrations that this version has: some statements will fail.
    #[non_exhaustive]
    OldTables {
        /// The newest that was run.
        found: i32,
        /// The newest there is.
        newest: i32,
    },
    /// The server takes no writes: a standby, or `default_transaction_read_only`.
    ReadOnly,
    /// `fsync` is off: a crash of the machine may damage everything.
    FsyncOff,
    /// `full_page_writes` is off: a crash of the machine may tear pages.
    FullPageWritesOff,
    /// `synchronous_commit` is off: a crash of the server loses the latest acknowledged writes.
    SynchronousCommitOff,
    /// The server has a standby, and acknowledges writes that the standby does not have yet: `synchronous_standby_names` is
    /// empty, or `synchronous_commit` is `local`. A failover to it loses the latest acknowledged writes, and their operations
    /// run again. A standby is known by its connection, or by its replication slot.
    AsynchronousStandby,
    /// Transactions are not READ COMMITTED by default. The server then rolls statements of the store back that run beside
    /// each other, also of different keys. The store sends each again, at READ COMMITTED where its connections are a pool's:
    /// that costs a round trip and no call. An [`Inbox`](crate::Inbox), and a completion in a transaction of the caller's,
    /// fail instead.
    #[non_exhaustive]
    Isolation {
        /// What they are.
        found: String,
    },
    /// The database's encoding is not UTF8: keys beyond ASCII may be refused.
    #[non_exhaustive]
    Encoding {
        /// What it is.
        found: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldTables { found, newest } => {
                write!(f, "the tables are at migration {found} of {newest}: run `migrate`")
            }
            Self::ReadOnly => f.write_str("the server takes no writes: connect to the primary"),
            Self::FsyncOff => f.write_str("fsync is off: a crash of the machine may lose everything; turn it on"),
            Self::FullPageWritesOff => {
                f.write_str("full_page_writes is off: a crash of the machine may tear pages; turn it on")
            }
            Self::SynchronousCommitOff => f.write_str(
                "synchronous_commit is off: a crash of the server loses the latest acknowledged writes, and with them \
                 the promise; set it to on for this role",
            ),
            Self::AsynchronousStandby => f.write_str(
                "a standby follows this server, and writes are acknowledged before it has them: a failover to it loses the \
                 latest, and their operations run again; set synchronous_standby_names, and synchronous_commit to on",
            ),
            Self::Isolation { found } => write!(
                f,
                "default_transaction_isolation is {found}: the server rolls back calls that run beside each other, and they \
                 are sent a second time; set it to `read committed` for this role"
            ),
            Self::Encoding { found } => {
                write!(f, "the database's encoding is {found}, not UTF8: keys beyond ASCII may be refused")
            }
        }
    }
}

const SETTINGS: &str = "\
SELECT coalesce((SELECT max(number) FROM {t}), 0), current_setting('transaction_read_only') = 'on', \
       current_setting('fsync') = 'off', current_setting('full_page_writes') = 'off', \
       current_setting('synchronous_commit'), current_setting('server_encoding'), \
       current_setting('synchronous_standby_names') <> '', current_setting('default_transaction_isolation'), \
       EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_type = 'physical') OR \
       EXISTS (SELECT 1 FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' AND pid NOT IN \
               (SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL))";

impl<C: Connections> PostgresStore<C> {
    /// Reads the settings of the server, as of one connection, and says what they mean. To be called when a service
    /// starts; nothing else in this crate does. What to refuse is the caller's.
    ///
    /// # Errors
    /// [`Error`]: what the database said, such as that the tables are missing.
    pub async fn check(&self) -> Result<Checked, Error> {
        let table = format!("{}oncekey_migrations", self.options.schema.prefix());
        let statement = Statement { text: SETTINGS.replace("{t}", &table), types: Vec::new() };
        let rows = self.run(Who::Anybody, &statement, &[]).await?;
        let read = rows.first().expect("a SELECT without FROM has one row");
        let newest = MIGRATIONS.last().map_or(0, |last| last.number);
        let (found, commit): (i32, String) = (row::get(read, 0)?, row::get(read, 4)?);
        let (encoding, isolation): (String, String) = (row::get(read, 5)?, row::get(read, 7)?);
        let (fsync_off, commit_off) = (row::get(read, 2)?, commit == "off");
        let waits = row::get::<bool>(read, 6)? && commit != "local";
        // Without a flush, commits wait for no standby, and the finding before it says so.
        let asynchronous = row::get::<bool>(read, 8)? && !waits && !commit_off;
        let all = [
            (found < newest, Finding::OldTables { found, newest }),
            (row::get(read, 1)?, Finding::ReadOnly),
            (fsync_off, Finding::FsyncOff),
            (row::get(read, 3)?, Finding::FullPageWritesOff),
            (commit_off, Finding::SynchronousCommitOff),
            (asynchronous, Finding::AsynchronousStandby),
            (isolation != "read committed", Finding::Isolation { found: isolation }),
            (encoding != "UTF8", Finding::Encoding { found: encoding }),
        ];
        let findings = all.into_iter().filter(|(is, _)| *is).map(|(_, finding)| finding).collect();
        let durability = if fsync_off || commit_off {
            DurabilityClass::Machine
        } else if waits {
            DurabilityClass::Quorum
        } else {
            DurabilityClass::Disk
        };
        Ok(Checked { durability, findings })
    }
}
