//! The scripts: the whole contract, on the server, in one step per call.

mod reply;

use redis::{Cmd, Script};

pub(crate) use reply::{Reply, read};

/// The scripts of a store.
///
/// `claim` and `exchange` are one source. A claim has no header, so the server lets it read while memory is full, and
/// refuses its first write: a replay is still answered. An exchange is declared to run all the same (Redis 7), so that
/// whoever holds a claim can conclude it. A load writes nothing, and is not declared so: all of them find out by a write that
/// changes nothing whether the server is a replica.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) claim: Source,
    pub(crate) exchange: Source,
    pub(crate) load: Source,
}

/// One script and its digest.
#[derive(Debug)]
pub(crate) struct Source {
    text: String,
    digest: String,
}

impl Source {
    fn new(text: String) -> Self {
        // The digest is all that is used of it.
        let digest = Script::new(&text).get_hash().to_owned();
        Self { text, digest }
    }

    /// The call by digest, which needs the script in the server's cache; or with the whole text, which puts it there.
    /// `args_len` is about how many bytes follow.
    pub(crate) fn call(&self, whole: bool, key: &[u8], args_len: usize) -> Cmd {
        let script = if whole { self.text.len() } else { self.digest.len() };
        let mut cmd = Cmd::with_capacity(12, script + key.len() + args_len + 8);
        if whole {
            cmd.arg("EVAL").arg(&self.text)
        } else {
            cmd.arg("EVALSHA").arg(&self.digest)
        };
        cmd.arg(1).arg(key);
        cmd
    }
}

const READ: &str = include_str!("read.lua");
const EXCHANGE: &str = include_str!("exchange.lua");
const LOAD: &str = include_str!("load.lua");
const ANSWER: &str = include_str!("answer.lua");
const WRITE: &str = include_str!("write.lua");

impl Scripts {
    pub(crate) fn new() -> Self {
        Self {
            claim: Source::new(format!("{READ}\n{EXCHANGE}\n{ANSWER}\n{WRITE}")),
            exchange: Source::new(format!("#!lua flags=allow-oom\n{READ}\n{EXCHANGE}\n{ANSWER}\n{WRITE}")),
            load: Source::new(format!("{READ}\n{LOAD}\n{ANSWER}")),
        }
    }
}
