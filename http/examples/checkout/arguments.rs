//! What the command line asks for.

use std::path::PathBuf;

pub(crate) const HELP: &str = "\
A shop with one button, to click twice.

  --port N               the port on 127.0.0.1; 3000 by default, and 0 for any that is free
  --store memory         outcomes live as long as the process (the default)
  --store sqlite:PATH    outcomes live in a SQLite file: stop the shop, start it again, and the same key
                         still gets the same answer; the bank's ledger goes into PATH.ledger
  --help                 this text";

#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Arguments {
    pub(crate) port: u16,
    pub(crate) store: StoreChoice,
}

#[derive(PartialEq, Eq, Debug)]
pub(crate) enum StoreChoice {
    Memory,
    Sqlite(PathBuf),
}

impl Arguments {
    /// `None` if help is what was asked for.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut given = Self { port: 3000, store: StoreChoice::Memory };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "--port" => {
                    let port = value()?;
                    given.port = port.parse().map_err(|_| format!("{port:?} is no port: 0 to 65535"))?;
                }
                "--store" => given.store = store(&value()?)?,
                other => return Err(format!("what is {other:?}?")),
            }
        }
        Ok(Some(given))
    }
}

fn store(choice: &str) -> Result<StoreChoice, String> {
    match choice.split_once(':') {
        None if choice == "memory" => Ok(StoreChoice::Memory),
        Some(("sqlite", path)) if !path.is_empty() => Ok(StoreChoice::Sqlite(path.into())),
        _ => Err(format!("{choice:?} is no store: memory, or sqlite:PATH")),
    }
}
