//! Which server the sentinels name as the primary.

use redis::Value;

use super::NodeLink;
use super::dial::DialedRole;
use super::fault::StoreFault;
use crate::config::StoreNode;
use crate::proxy::shared_limits::settings::StoreSettings;

/// A connection to the primary, found through the first sentinel that knows it.
pub(super) async fn primary(
    sentinels: &[StoreNode],
    name: &str,
    settings: &StoreSettings,
) -> Result<NodeLink, StoreFault> {
    let mut last = StoreFault::Silent;
    for sentinel in sentinels {
        match by(sentinel, name, settings).await {
            Ok(link) => return Ok(link),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn by(
    sentinel: &StoreNode,
    name: &str,
    settings: &StoreSettings,
) -> Result<NodeLink, StoreFault> {
    let link = NodeLink::dial(sentinel, settings, DialedRole::Sentinel).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let node = match link.ask(&question).await? {
        Value::Array(parts) => match parts.as_slice() {
            [Value::BulkString(host), Value::BulkString(port)] => node(host, port),
            _ => None,
        },
        Value::Nil => {
            let why = format!("sentinel {sentinel} does not know `{name}`");
            return Err(StoreFault::Settings(why.into()));
        }
        _ => None,
    };
    let node = node.ok_or(StoreFault::Strange)?;
    let link = NodeLink::connect(&node, settings).await?;
    // A sentinel may name the old primary for some time after its demotion.
    match link.ask(&redis::cmd("ROLE")).await? {
        Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master") => {
            Ok(link)
        }
        Value::Array(_) => {
            Err(StoreFault::Connection(format!("{node} is no primary (any more)").into()))
        }
        _ => Err(StoreFault::Strange),
    }
}

fn node(host: &[u8], port: &[u8]) -> Option<StoreNode> {
    let host = std::str::from_utf8(host).ok()?.into();
    let port = std::str::from_utf8(port).ok()?.parse().ok()?;
    Some(StoreNode::Tcp { host, port })
}
