//! The clients: how each is started, what it is told, and what it says.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::rust;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Client {
    StripePython,
    StripeNode,
    Requests,
    Httpx,
    Undici,
    Curl,
    Reqwest,
}

pub(super) const ALL: [Client; 7] = [
    Client::StripePython,
    Client::StripeNode,
    Client::Requests,
    Client::Httpx,
    Client::Undici,
    Client::Curl,
    Client::Reqwest,
];

/// For how long a client may go on, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(400);

/// What a client is told.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where the service is: scheme, host and port.
    pub(super) base: String,
    /// For how long it waits for a reply.
    pub(super) timeout: Duration,
    /// How often it may send a request again.
    pub(super) retries: u32,
}

/// An operation that a client is to carry out.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    /// Empty if the client is to make one.
    pub(super) key: String,
}

/// What a client got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) status: u16,
    /// The class of the error that it raised; empty if it raised none.
    pub(super) error: String,
    /// How often its caller had to ask again, since it raised an error of the connection.
    pub(super) asked_again: u32,
    pub(super) body: String,
}

impl Client {
    /// As the table of the README has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::StripePython => "Stripe's for Python",
            Self::StripeNode => "Stripe's for node",
            Self::Requests => "`requests` (Python)",
            Self::Httpx => "`httpx` (Python)",
            Self::Undici => "`undici` (node)",
            Self::Curl => "`curl`",
            Self::Reqwest => "`reqwest` (Rust)",
        }
    }

    pub(super) fn is_stripes(self) -> bool {
        matches!(self, Self::StripePython | Self::StripeNode)
    }

    /// Carries out the operations, some at a time.
    pub(super) async fn run(self, settings: &Settings, operations: &[Asked]) -> Vec<Told> {
        let told = match self.program() {
            Some(program) => said(program, settings, operations).await,
            None => rust::run(settings, operations).await,
        };
        let mut names: Vec<_> = told.iter().map(|told| &told.name).collect();
        let mut asked: Vec<_> = operations.iter().map(|asked| &asked.name).collect();
        names.sort();
        asked.sort();
        assert_eq!(names, asked, "{self:?} says something about each operation");
        told
    }

    /// `None` if it runs in this process.
    fn program(self) -> Option<Command> {
        let script = match self {
            Self::StripePython => "stripe_python.py",
            Self::StripeNode => "stripe_node.js",
            Self::Requests => "requests_urllib3.py",
            Self::Httpx => "httpx_retrying.py",
            Self::Undici => "undici_retry.js",
            Self::Curl => "curl.sh",
            Self::Reqwest => return None,
        };
        let mut command = if script.ends_with(".py") {
            Command::new(installed("python/bin/python"))
        } else if script.ends_with(".js") {
            let mut node = Command::new("node");
            node.env("NODE_PATH", installed("node/node_modules"));
            node
        } else {
            Command::new("bash")
        };
        command.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Some(command)
    }
}

/// What scripts/servers.sh installed in the target folder.
fn installed(path: &str) -> PathBuf {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = scratch.parent().expect("it is in the target folder").join("clients").join(path);
    assert!(path.exists(), "{} is missing: run scripts/servers.sh", path.display());
    path
}

async fn said(mut program: Command, settings: &Settings, operations: &[Asked]) -> Vec<Told> {
    program.args([&settings.base, &settings.timeout.as_secs_f64().to_string()]);
    program.arg(settings.retries.to_string());
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = program.spawn().expect("it can be started: run scripts/servers.sh");
    let lines: String = operations.iter().map(|asked| format!("{}\t{}\n", asked.name, asked.key)).collect();
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(lines.as_bytes()).await.unwrap();
    drop(input);
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{program:?}: not within {PATIENCE:?}")).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?} ended with {}: {complaints}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| told(line).unwrap_or_else(|| panic!("{line:?}; {complaints}"))).collect()
}

fn told(line: &str) -> Option<Told> {
    let mut cells = line.splitn(5, '\t');
    let mut next = || cells.next().map(str::to_owned);
    let (name, status, error) = (next()?, next()?.parse().ok()?, next()?);
    Some(Told { name, status, error, asked_again: next()?.parse().ok()?, body: next()? })
}
