//! A child process, from both of its ends.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::deployment::{Deployment, PATIENCE};

/// What a child is to do: lines of `name=value`.
const JOB: &str = "ONCEKEY_STORE_TESTING_JOB";
/// Before what a child says, wherever it is in a line: the test harness writes to the same stream.
const MARK: &str = "@@ ";

/// The body of an ignored test of a crate's own that [`Child::start_test`] runs in another process. Outside of one it does
/// nothing.
///
/// # Panics
/// If the child has something to complain about: its parent sees it fail.
pub fn work<F: Future<Output = ()>>(work: impl FnOnce(Job) -> F) {
    let Ok(job) = env::var(JOB) else {
        println!("nothing to do: other tests run this, in processes of their own");
        return;
    };
    let parameters = job.lines().filter_map(|line| line.split_once('='));
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let job = Job { parameters, orders: orders() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(work(job));
    say("done");
}

/// The parent's lines. When they end, the parent is gone, and so is this process.
fn orders() -> UnboundedReceiver<String> {
    let (sender, orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { break };
            // Who has nothing to wait for takes no orders.
            let _sent = sender.send(line);
        }
        std::process::exit(3);
    });
    orders
}

/// What a child was told to do.
#[derive(Debug)]
pub struct Job {
    parameters: BTreeMap<String, String>,
    orders: UnboundedReceiver<String>,
}

impl Job {
    /// A parameter.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn get(&self, name: &str) -> &str {
        self.parameters.get(name).unwrap_or_else(|| panic!("the job has no {name}"))
    }

    /// A parameter that is a number.
    ///
    /// # Panics
    /// If it is not, or there is none of this name.
    pub fn number(&self, name: &str) -> usize {
        self.get(name).parse().expect("a number")
    }

    /// Waits for the parent's go.
    pub(crate) async fn go(&mut self) {
        let order = self.orders.recv().await;
        assert_eq!(order.as_deref(), Some("go"));
    }

    /// Waits for the parent's [`Child::go_at`] and for its moment, awake: a sleeper would come later than that. Answers
    /// false at [`Child::end`].
    pub(crate) async fn go_at(&mut self) -> bool {
        let order = self.orders.recv().await.expect("the parent has something to say");
        if order == "end" {
            return false;
        }
        let moment = order.strip_prefix("go at ").and_then(|moment| moment.parse().ok());
        let moment = UNIX_EPOCH + Duration::from_nanos(moment.expect("a moment"));
        while SystemTime::now() < moment {
            // There may be more processes than processors.
            thread::yield_now();
        }
        true
    }
}

/// Tells the parent, from within a child.
///
/// # Panics
/// If nobody listens.
pub fn say(what: &str) {
    let mut stdout = io::stdout().lock();
    let said = writeln!(stdout, "{MARK}{what}").and_then(|()| stdout.flush());
    said.expect("the parent listens");
}

/// A child process, killed with its handle.
pub struct Child {
    process: Process,
    stdin: ChildStdin,
    said: UnboundedReceiver<String>,
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Child {
    pub(crate) fn start<D: Deployment>(role: &str, parameters: &[(&str, &str)]) -> Self {
        Self::start_test(D::CHILD, &[&[("role", role)], parameters].concat())
    }

    /// Starts this test binary again, for one ignored test, by its full name, which calls [`work`].
    ///
    /// # Panics
    /// If it cannot be started, or a parameter has a line break in it.
    pub fn start_test(test: &str, parameters: &[(&str, &str)]) -> Self {
        let test = test.to_owned();
        let mut job = String::new();
        for (name, value) in parameters {
            assert!(!value.contains('\n'), "a value of a job is one line");
            job.push_str(&format!("{name}={value}\n"));
        }
        let mut command = Command::new(env::current_exe().expect("a test binary knows where it is"));
        command.args([&test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
        command.env(JOB, job).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the test binary can be started again");
        let stdin = process.stdin.take().expect("it was asked for");
        let stdout = process.stdout.take().expect("it was asked for");
        let (sender, said) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match line.split_once(MARK) {
                    // A parent that is done with it does not listen.
                    Some((_, what)) => drop(sender.send(what.to_owned())),
                    None if line.contains("running 0 tests") => {
                        drop(sender.send(format!("nothing: there is no test of the name {test}")));
                    }
                    None => {}
                }
            }
        });
        Self { process, stdin, said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it says next; `None` when it ended.
    ///
    /// # Panics
    /// If it says nothing for minutes.
    pub async fn next(&mut self) -> Option<String> {
        let said = tokio::time::timeout(PATIENCE, self.said.recv()).await;
        said.unwrap_or_else(|_| panic!("child {} said nothing for {PATIENCE:?}", self.pid()))
    }

    /// What it says next, which must begin with this word; answers the rest.
    ///
    /// # Panics
    /// If it says something else, or ended.
    pub async fn expect(&mut self, word: &str) -> String {
        let said = self.next().await;
        let rest = said.as_ref().and_then(|said| said.strip_prefix(word));
        rest.unwrap_or_else(|| panic!("child {} was to say {word:?}, and said {said:?}", self.pid()))
            .trim()
            .to_owned()
    }

    /// Lets it begin.
    pub(crate) fn go(&mut self) {
        self.order("go");
    }

    /// Lets it begin at this moment.
    pub(crate) fn go_at(&mut self, moment: SystemTime) {
        let since = moment.duration_since(UNIX_EPOCH).expect("it is after 1970");
        self.order(&format!("go at {}", since.as_nanos()));
    }

    /// Tells it that there is no more to do.
    pub(crate) fn end(&mut self) {
        self.order("end");
    }

    fn order(&mut self, order: &str) {
        // One that has ended takes no orders: what it said is asked for next, and tells.
        let _taken = self.stdin.write_all(format!("{order}\n").as_bytes());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a child that was not waited for can be sent a signal");
    }

    /// Kills it with SIGKILL, and reaps it.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }

    /// Waits for its end, which must be a good one.
    pub(crate) async fn finished(mut self) {
        self.expect("done").await;
        let status = tokio::task::block_in_place(|| self.process.wait()).expect("a child can be waited for");
        assert!(status.success(), "a child ended with {status}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
