//! The store: a Valkey or Redis, alone, behind sentinels or as a cluster. Each server in use has
//! one connection. The library `redis` speaks the protocol. This file decides which server is asked
//! and what an error means, and ensures that nothing is ever repeated. Imports `config`, `clock`.

mod cluster;
mod dial;
mod fault;
mod reply;
mod sentinel;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::task::AbortHandle;

use self::cluster::ClusterLink;
pub(super) use self::fault::StoreFault;
pub(super) use self::reply::StoreReply;
use super::script::StoreCall;
use super::settings::StoreSettings;
use crate::config::StoreTopology;

/// A connection to the store, or to those of its servers that were needed so far.
pub(super) enum StoreLink {
    One(NodeLink),
    Cluster(Box<ClusterLink>),
}

/// One connection. Its task ends with it, and so does everything that waits for an answer.
pub(super) struct NodeLink {
    connection: MultiplexedConnection,
    driver: AbortHandle,
}

/// The result of each of several calls, in their order.
pub(super) type StoreReplies = Vec<Result<StoreReply, StoreFault>>;

/// Whether a server has the keys already.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum SlotAccess {
    Own,
    /// The keys are about to move there, and it already serves them to clients that ask for it.
    Asking,
}

/// How a call names its script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ScriptForm {
    /// By its hash: the store has it.
    Hash,
    Text,
}

// === impl StoreLink ===

impl StoreLink {
    /// Connects to the server that takes writes.
    pub(super) async fn connect(settings: &StoreSettings) -> Result<Self, StoreFault> {
        match &settings.config.store {
            StoreTopology::Single(node) => NodeLink::connect(node, settings).await.map(Self::One),
            StoreTopology::Sentinel { nodes, name } => {
                sentinel::primary(nodes, name, settings).await.map(Self::One)
            }
            StoreTopology::Cluster { nodes } => {
                let link = ClusterLink::connect(nodes, settings).await?;
                Ok(Self::Cluster(Box::new(link)))
            }
        }
    }

    /// Runs scripts, in one write. A script that the store does not have is sent once. A call is
    /// repeated only if it certainly was not run.
    pub(super) async fn call(&self, calls: Vec<StoreCall>) -> StoreReplies {
        match self {
            Self::One(node) => node.call(&calls, SlotAccess::Own).await,
            Self::Cluster(cluster) => cluster.call(&calls).await,
        }
    }

    pub(super) async fn call_one(&self, call: StoreCall) -> Result<StoreReply, StoreFault> {
        let mut replies = self.call(vec![call]).await;
        replies.pop().unwrap_or(Err(StoreFault::Strange))
    }

    /// Finds out which server has which keys, where that may have changed.
    pub(super) async fn look_around(&self) -> Result<(), StoreFault> {
        match self {
            Self::One(_) => Ok(()),
            Self::Cluster(cluster) => cluster.look_around().await,
        }
    }
}

// === impl NodeLink ===

impl NodeLink {
    /// Runs scripts on this server.
    async fn call(&self, calls: &[StoreCall], access: SlotAccess) -> StoreReplies {
        let all: Vec<_> = calls.iter().collect();
        let mut replies = self.send(&all, ScriptForm::Hash, access).await;
        let is_unknown = |reply: &Result<_, StoreFault>| matches!(reply, Err(fault) if fault.is_unknown_script());
        let unknown: Vec<usize> =
            (0..replies.len()).filter(|at| replies.get(*at).is_some_and(is_unknown)).collect();
        if unknown.is_empty() {
            return replies;
        }
        let again: Vec<_> = unknown.iter().filter_map(|at| calls.get(*at)).collect();
        let second = self.send(&again, ScriptForm::Text, access).await;
        for (at, reply) in unknown.into_iter().zip(second) {
            if let Some(place) = replies.get_mut(at) {
                *place = reply;
            }
        }
        replies
    }

    async fn send(
        &self,
        calls: &[&StoreCall],
        form: ScriptForm,
        access: SlotAccess,
    ) -> StoreReplies {
        let asking = access == SlotAccess::Asking;
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for call in calls {
            if asking {
                pipeline.add_command(redis::cmd("ASKING"));
            }
            pipeline.add_command(command(call, form));
        }
        let count = if asking { 2 * calls.len() } else { calls.len() };
        let mut connection = self.connection.clone();
        let sent = connection.send_packed_commands(&pipeline, 0, count).await;
        let values = match sent {
            Ok(values) => values,
            Err(error) => {
                let fault = StoreFault::from(error);
                return calls.iter().map(|_| Err(fault.clone())).collect();
            }
        };
        let mut replies: StoreReplies = values
            .into_iter()
            .skip(usize::from(asking))
            .step_by(if asking { 2 } else { 1 })
            .map(StoreReply::of)
            .collect();
        // One reply for each call, whatever the server has sent.
        replies.resize_with(calls.len(), || Err(StoreFault::Strange));
        replies
    }

    /// Sends one command of any kind.
    async fn ask(&self, command: &Cmd) -> Result<Value, StoreFault> {
        let mut connection = self.connection.clone();
        match connection.send_packed_command(command).await {
            Ok(Value::ServerError(error)) => Err(StoreFault::from(redis::RedisError::from(error))),
            Ok(value) => Ok(value),
            Err(error) => Err(StoreFault::from(error)),
        }
    }
}

impl Drop for NodeLink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn command(call: &StoreCall, form: ScriptForm) -> Cmd {
    let mut command = match form {
        ScriptForm::Hash => redis::cmd("EVALSHA"),
        ScriptForm::Text => redis::cmd("EVAL"),
    };
    match form {
        ScriptForm::Hash => command.arg(&call.script.sha),
        ScriptForm::Text => command.arg(call.script.text),
    };
    command.arg(call.keys.len());
    for key in &call.keys {
        command.arg(&**key);
    }
    for arg in &call.args {
        command.arg(arg);
    }
    command
}
