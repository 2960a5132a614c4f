//! The ledger: what was charged. In memory, or a file that outlives the process and may be written by several.
//!
//! A file is one JSON object a line, and is only ever appended to, each line by one write: so a process that is killed, or
//! has no room on the disk, leaves whole lines, and now and then one that was cut off, which no charge rests on. What is
//! written behind that one, by whichever run, is read all the same.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use oncekey::{Key, OperationId};
use serde::{Deserialize, Serialize};

/// The answer to a charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The place of the charge on the ledger, as far as the run knew it that charged.
    pub(crate) number: u64,
    pub(crate) amount_cents: u64,
}

/// One charge on the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    pub(crate) key: Key,
    pub(crate) receipt: Receipt,
    /// Made by another run: an earlier one, or one that works beside this one.
    pub(crate) elsewhere: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    charges: Vec<Charge>,
    by_reference: HashMap<OperationId, usize>,
    file: Option<LedgerFile>,
}

#[derive(Debug)]
struct LedgerFile {
    path: PathBuf,
    file: File,
    /// Tells this run's lines from others'.
    run: OperationId,
    /// So much has been read.
    read_to: u64,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    number: u64,
    scope: Vec<String>,
    key: String,
    amount_cents: u64,
    /// The operation id that the charge was made under.
    reference: Option<String>,
    run: String,
}

impl Ledger {
    /// The ledger in a file, which is made if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let run = OperationId::from_bytes(random_bytes());
        let mut ledger = Self {
            file: Some(LedgerFile { path: path.to_owned(), file, run, read_to: 0 }),
            ..Self::default()
        };
        ledger.end_cut_line()?;
        ledger.refresh()?;
        Ok(ledger)
    }

    /// Puts a charge on the ledger.
    pub(crate) fn post(
        &mut self,
        key: &Key,
        amount_cents: u64,
        reference: Option<OperationId>,
    ) -> io::Result<Receipt> {
        self.refresh()?;
        let receipt = Receipt { number: self.charges.len() as u64 + 1, amount_cents };
        let Some(file) = &mut self.file else {
            self.enter(Charge { key: key.clone(), receipt: receipt.clone(), elsewhere: false }, reference);
            return Ok(receipt);
        };
        let line = Line {
            number: receipt.number,
            scope: key.scope().map(str::to_owned).collect(),
            key: key.id().to_owned(),
            amount_cents,
            reference: reference.map(|reference| reference.to_string()),
            run: file.run.to_string(),
        };
        let mut bytes = serde_json::to_vec(&line).expect("a line is plain data, and memory takes it");
        bytes.push(b'\n');
        write_at_once(&mut file.file, &bytes)?;
        Ok(receipt)
    }

    /// The charge that was made under this reference, by whichever run, if one was.
    pub(crate) fn find(&mut self, reference: OperationId) -> io::Result<Option<Receipt>> {
        self.refresh()?;
        Ok(self.by_reference.get(&reference).map(|index| self.charges[*index].receipt.clone()))
    }

    /// Everything on the ledger, in the order it was charged.
    pub(crate) fn into_charges(mut self) -> io::Result<Vec<Charge>> {
        self.refresh()?;
        Ok(self.charges)
    }

    fn enter(&mut self, charge: Charge, reference: Option<OperationId>) {
        if let Some(reference) = reference {
            self.by_reference.insert(reference, self.charges.len());
        }
        self.charges.push(charge);
    }

    /// Reads what was appended since, by whichever run.
    fn refresh(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = Vec::new();
        file.file.seek(SeekFrom::Start(file.read_to))?;
        file.file.read_to_end(&mut bytes)?;
        let own = file.run.to_string();
        let mut entered = Vec::new();
        // A line without an end is being written just now, or was cut off.
        for whole in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let at = file.read_to;
            file.read_to += whole.len() as u64;
            // A line that was cut off by a kill, and ended by the next run.
            if whole.ends_with(CUT_END) {
                continue;
            }
            let entry = behind_what_was_cut(whole).and_then(|line| parse(line, &own)).map_err(|problem| {
                let path = file.path.display();
                io::Error::new(io::ErrorKind::InvalidData, format!("{path}, byte {at}: {problem}"))
            })?;
            entered.push(entry);
        }
        for (charge, reference) in entered {
            self.enter(charge, reference);
        }
        Ok(())
    }

    /// A run that was killed in the middle of a line left one without an end: it is marked as no charge, or the next
    /// line would be glued to it.
    fn end_cut_line(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut last = [0];
        if file.file.seek(SeekFrom::End(0))? > 0 {
            file.file.seek(SeekFrom::End(-1))?;
            file.file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.file.write_all(CUT_END)?;
            }
        }
        Ok(())
    }
}

/// Not in several pieces, between which another run might write.
pub(crate) fn write_at_once(file: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    let written = loop {
        match file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => break written?,
        }
    };
    if written == bytes.len() {
        return Ok(());
    }
    let why = format!(
        "a line of the ledger was cut off after {written} of {} bytes; is the disk full?",
        bytes.len()
    );
    Err(io::Error::new(io::ErrorKind::WriteZero, why))
}

/// How each line begins. Within a line it cannot be: quotation marks in a text are escaped.
const BEGIN: &[u8] = b"{\"number\":";

/// A line of which only the beginning was written, and its end not either, has the next one glued to it: the last is what
/// counts, as long as all before it is the beginning of a line, and nothing else.
fn behind_what_was_cut(mut line: &[u8]) -> Result<&[u8], String> {
    while let Some(next) = line.windows(BEGIN.len()).skip(1).position(|bytes| bytes == BEGIN) {
        let (cut, rest) = line.split_at(next + 1);
        match serde_json::from_slice::<Line>(cut) {
            // All but its end may have been written.
            Ok(_) => {}
            Err(error) if error.is_eof() => {}
            Err(error) => return Err(format!("not a line of a ledger: {error}")),
        }
        line = rest;
    }
    Ok(line)
}

/// The end of a line that was cut off.
const CUT_END: &[u8] = b" (cut off)\n";

fn parse(line: &[u8], own: &str) -> Result<(Charge, Option<OperationId>), String> {
    let line: Line =
        serde_json::from_slice(line).map_err(|error| format!("not a line of a ledger: {error}"))?;
    let key = Key::scoped(&line.scope, &line.key).map_err(|error| error.to_string())?;
    let reference = line.reference.map(|reference| reference.parse()).transpose();
    let reference = reference.map_err(|_| "the reference is no operation id".to_owned())?;
    let receipt = Receipt { number: line.number, amount_cents: line.amount_cents };
    Ok((Charge { key, receipt, elsewhere: line.run != own }, reference))
}

/// Bytes that no other run draws: std's hasher keys are random.
fn random_bytes() -> [u8; 16] {
    use std::hash::{BuildHasher as _, RandomState};
    let half = |salt: u64| RandomState::new().hash_one(salt).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half(u64::from(std::process::id())));
    bytes[8..].copy_from_slice(&half(1));
    bytes
}
