//! A shop with one button: "Pay $50", a ledger below it, and switches for what goes wrong between a browser and a bank.
//!
//! `cargo run --release -p oncekey-http --example checkout`, and open the address that it prints. `-- --help` says the rest.

mod app;
mod arguments;
mod bank;
mod page;
mod switches;
mod visitor;

use std::error::Error;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use oncekey::{Deduplicator, MemoryStore, Store};
use oncekey_sqlite::SqliteStore;
use tokio::net::TcpListener;

use crate::arguments::{Arguments, HELP, StoreChoice};
use crate::bank::Bank;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return say(HELP),
        Err(problem) => {
            let _nobody_listens = writeln!(std::io::stderr(), "checkout: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _nobody_listens = writeln!(std::io::stderr(), "checkout: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let app = shop(arguments.store)?;
    // This machine only: the shop takes no real money, and knows no real customers.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port))
        .await
        .map_err(|error| format!("port {} cannot be had ({error}); try --port 0", arguments.port))?;
    say(&format!("The shop is open at http://{} (Ctrl-C closes it)", listener.local_addr()?));
    Ok(axum::serve(listener, app).await?)
}

/// The shop over the store that was asked for. Over SQLite the bank's ledger is a file too, so that both outlive the
/// process, as the ledger of a real bank would.
fn shop(store: StoreChoice) -> Result<Router, Box<dyn Error>> {
    Ok(match store {
        StoreChoice::Memory => app::shop(&engine(MemoryStore::new())?, &Arc::new(Bank::in_memory()))?,
        StoreChoice::Sqlite(path) => {
            let mut ledger = path.clone().into_os_string();
            ledger.push(".ledger");
            let ledger = PathBuf::from(ledger);
            let bank = Bank::on_file(&ledger)
                .map_err(|error| format!("the ledger {} cannot be used: {error}", ledger.display()))?;
            app::shop(&engine(SqliteStore::open(&path)?)?, &Arc::new(bank))?
        }
    })
}

/// The engine, over a store of outcomes.
fn engine<S: Store + 'static>(store: S) -> Result<Deduplicator<S>, Box<dyn Error>> {
    Ok(Deduplicator::builder(store).lease(app::LEASE).build()?)
}

fn say(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
