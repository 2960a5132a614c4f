//! Calls of scripts over a connection: by their digest, and with their text where the server does not have them.

use oncekey::protocol::Expected;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, ServerErrorKind, Value};

use crate::RedisStoreError;
use crate::script::{Reply, Source, read};
use crate::wait::{Confirmed, Wait};

/// One call of a script, on one key.
#[derive(Debug)]
pub(crate) struct Call<'s> {
    pub(crate) source: &'s Source,
    pub(crate) key: Vec<u8>,
    pub(crate) args: Args,
}

/// What a script is given.
#[derive(Debug)]
pub(crate) enum Args {
    Exchange(Write),
    /// Whether only what is in doubt is wanted.
    Load {
        only_in_doubt: bool,
    },
}

/// What `exchange.lua` and `write.lua` are given, in their order.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) expected: Expected,
    /// In microseconds; `None` forever.
    pub(crate) live: Option<u64>,
    pub(crate) linger: Option<u64>,
    pub(crate) body: Vec<u8>,
    pub(crate) state: &'static str,
    pub(crate) about: String,
    pub(crate) call: String,
    pub(crate) outlives_ms: u64,
}

impl Call<'_> {
    fn command(&self, whole: bool) -> Cmd {
        let mut cmd = self.source.call(whole, &self.key, self.args.len());
        match &self.args {
            Args::Exchange(write) => write.add_to(&mut cmd),
            Args::Load { only_in_doubt } => {
                cmd.arg(if *only_in_doubt { "doubt" } else { "" });
            }
        }
        cmd
    }
}

impl Args {
    /// About as many bytes as it takes.
    fn len(&self) -> usize {
        match self {
            Self::Exchange(write) => write.body.len() + write.about.len() + write.call.len() + 80,
            Self::Load { .. } => 5,
        }
    }
}

impl Write {
    fn add_to(&self, cmd: &mut Cmd) {
        match self.expected {
            Expected::Vacant => cmd.arg(""),
            Expected::At(version) => cmd.arg(version.get()),
        };
        for lifetime in [self.live, self.linger] {
            match lifetime {
                Some(micros) => cmd.arg(micros),
                None => cmd.arg(""),
            };
        }
        cmd.arg(&self.body).arg(self.state).arg(&self.about).arg(&self.call).arg(self.outlives_ms);
    }
}

/// A connection, for one call or pipeline.
#[derive(Debug)]
pub(crate) struct Link<C> {
    pub(crate) connection: C,
    /// It sends requests again by itself.
    pub(crate) resends: bool,
}

type Answer = Result<Reply, RedisStoreError>;

impl<C: ConnectionLike> Link<C> {
    /// Makes one call. If the server does not have the script it did nothing, and gets it.
    pub(crate) async fn call(mut self, call: &Call<'_>) -> Answer {
        match self.command(&call.command(false)).await {
            Err(error) if is_no_script(&error) => {
                let answered = self.command(&call.command(true)).await;
                read(self.told(answered)?)
            }
            answered => read(self.told(answered)?),
        }
    }

    /// Sends one command.
    pub(crate) async fn command(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.connection.req_packed_command(cmd).await.and_then(Value::extract_error)
    }

    /// Says what a client's error means.
    pub(crate) fn told<T>(&self, answered: Result<T, RedisError>) -> Result<T, RedisStoreError> {
        answered.map_err(|error| RedisStoreError::of(error, self.resends))
    }

    /// Makes several calls in one pipeline, and then those whose script the server did not have in another. Answers
    /// each. With `wait`, a write that too few replicas confirmed is an error.
    pub(crate) async fn pipeline(mut self, calls: &[Call<'_>], wait: Option<Wait>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = calls.iter().map(|_| None).collect();
        for whole in [false, true] {
            let open: Vec<usize> = (0..calls.len()).filter(|&index| answers[index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            match self.send(calls, &open, whole, wait).await {
                Ok((values, confirmed)) => {
                    for (&index, value) in open.iter().zip(values) {
                        answers[index] = match value.extract_error() {
                            Err(error) if !whole && is_no_script(&error) => None,
                            answered => Some(self.told(answered).and_then(read).and_then(|reply| {
                                match (&reply, wait) {
                                    (Reply::Done(_), Some(wait)) => {
                                        wait.satisfied_by(&confirmed).map(|()| reply)
                                    }
                                    _ => Ok(reply),
                                }
                            })),
                        };
                    }
                }
                Err(error) => {
                    for index in open {
                        answers[index] = Some(self.told(Err(error.clone())));
                    }
                    break;
                }
            }
        }
        let missing = || Err(RedisStoreError::unexpected("fewer answers than requests"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// One pipeline of the calls that are open; its values, and how many replicas confirmed what was written.
    async fn send(
        &mut self,
        calls: &[Call<'_>],
        open: &[usize],
        whole: bool,
        wait: Option<Wait>,
    ) -> Result<(Vec<Value>, Confirmed), RedisError> {
        let mut pipeline = Pipeline::with_capacity(open.len() + 1);
        let mut brought: Vec<&Source> = Vec::new();
        for &index in open {
            // The first call of each script brings its text; those behind it in this pipeline find it there.
            let source = calls[index].source;
            let brings = whole && !brought.iter().any(|known| std::ptr::eq(*known, source));
            if brings {
                brought.push(source);
            }
            pipeline.add_command(calls[index].command(brings));
        }
        let mut count = open.len();
        if let Some(wait) = wait {
            // In the same pipeline, and so on the same connection, which is what it asks about.
            pipeline.add_command(wait.command());
            count += 1;
        }
        let mut values = self.connection.req_packed_commands(&pipeline, 0, count).await?;
        let confirmed = match wait.and_then(|_| values.pop()) {
            // What was written before it is written, whatever becomes of it.
            Some(value) => value.extract_error().and_then(|value| Ok(redis::from_redis_value(value)?)),
            None => Ok(0),
        };
        Ok((values, confirmed))
    }
}

fn is_no_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}
