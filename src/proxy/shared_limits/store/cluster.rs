//! A cluster: each slot of keys is on one server, and may move while requests continue.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use redis::Value;

use super::fault::StoreFault;
use super::{NodeLink, SlotAccess, StoreReplies};
use crate::config::StoreNode;
use crate::proxy::shared_limits::script::StoreCall;
use crate::proxy::shared_limits::settings::StoreSettings;

/// Connections to the servers that were needed so far.
pub(in crate::proxy::shared_limits) struct ClusterLink {
    settings: Rc<StoreSettings>,
    nodes: RefCell<HashMap<StoreNode, Rc<NodeLink>>>,
    slots: RefCell<Vec<SlotRange>>,
    /// Some slot was on another server.
    is_stale: Cell<bool>,
}

/// The slots of one server, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotRange {
    first: u16,
    last: u16,
    node: StoreNode,
}

/// The server that a group of calls goes to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SlotServer {
    node: StoreNode,
    access: SlotAccess,
}

const SLOTS: u16 = 16_384;

/// A call is redirected at most this often: the slot may be moving, to a server that is just taking
/// over.
const REDIRECTIONS: usize = 3;

// === impl ClusterLink ===

impl ClusterLink {
    /// Connects through the first server that knows the slots of all servers.
    pub(super) async fn connect(
        seeds: &[StoreNode],
        settings: &StoreSettings,
    ) -> Result<Self, StoreFault> {
        let link = Self {
            settings: Rc::new(settings.clone()),
            nodes: RefCell::default(),
            slots: RefCell::default(),
            is_stale: Cell::new(false),
        };
        let mut last = StoreFault::Silent;
        for seed in seeds {
            match link.learn_from(seed).await {
                Ok(()) => return Ok(link),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn learn_from(&self, node: &StoreNode) -> Result<(), StoreFault> {
        let link = self.node(node).await?;
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let slots = ranges(&link.ask(&question).await?, node).ok_or(StoreFault::Strange)?;
        self.is_stale.set(false);
        *self.slots.borrow_mut() = slots;
        Ok(())
    }

    /// Asks again which server has which slots, if one was on another server.
    pub(super) async fn look_around(&self) -> Result<(), StoreFault> {
        if !self.is_stale.get() {
            return Ok(());
        }
        let known: Vec<_> = self.nodes.borrow().keys().cloned().collect();
        let mut last = StoreFault::Silent;
        for node in known {
            match self.learn_from(&node).await {
                Ok(()) => return Ok(()),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// Sends each call to the server that has its keys. Calls to one server are sent together.
    pub(super) async fn call(&self, calls: &[StoreCall]) -> StoreReplies {
        let mut replies: StoreReplies = calls.iter().map(|_| Err(StoreFault::Strange)).collect();
        let mut left: HashMap<SlotServer, Vec<usize>> = HashMap::new();
        for (at, call) in calls.iter().enumerate() {
            let slot = call.keys.first().map_or(0, |key| slot_of(key.as_bytes()));
            match self.destination(slot) {
                Some(node) => {
                    left.entry(SlotServer { node, access: SlotAccess::Own }).or_default().push(at);
                }
                None => {
                    let why = format!("no server has slot {slot}");
                    put(&mut replies, at, Err(StoreFault::Connection(why.into())));
                }
            }
        }
        for _ in 0..=REDIRECTIONS {
            let mut onward: HashMap<SlotServer, Vec<usize>> = HashMap::new();
            for (to, places) in std::mem::take(&mut left) {
                let these: Vec<_> =
                    places.iter().filter_map(|at| calls.get(*at)).cloned().collect();
                let answers = match self.node(&to.node).await {
                    Ok(node) => node.call(&these, to.access).await,
                    Err(fault) => these.iter().map(|_| Err(fault.clone())).collect(),
                };
                for (at, answer) in places.into_iter().zip(answers) {
                    if let Err(fault) = &answer
                        && let Some(to) = self.onward(fault, &to.node)
                    {
                        onward.entry(to).or_default().push(at);
                    }
                    put(&mut replies, at, answer);
                }
            }
            if onward.is_empty() {
                break;
            }
            left = onward;
        }
        replies
    }

    /// Where to send a call that was not run. A server that is gone makes the map stale.
    fn onward(&self, fault: &StoreFault, from: &StoreNode) -> Option<SlotServer> {
        match fault {
            StoreFault::Elsewhere { slot, node, asking } => {
                let node = node_of(node, from)?;
                if !asking {
                    self.is_stale.set(true);
                    let range = SlotRange { first: *slot, last: *slot, node: node.clone() };
                    self.slots.borrow_mut().insert(0, range);
                }
                let access = if *asking { SlotAccess::Asking } else { SlotAccess::Own };
                Some(SlotServer { node, access })
            }
            StoreFault::Connection(_) => {
                self.nodes.borrow_mut().remove(from);
                self.is_stale.set(true);
                None
            }
            _ => None,
        }
    }

    fn destination(&self, slot: u16) -> Option<StoreNode> {
        let slots = self.slots.borrow();
        let range = slots.iter().find(|range| (range.first..=range.last).contains(&slot));
        range.map(|range| range.node.clone())
    }

    async fn node(&self, node: &StoreNode) -> Result<Rc<NodeLink>, StoreFault> {
        let known = self.nodes.borrow().get(node).cloned();
        if let Some(link) = known {
            return Ok(link);
        }
        let link = Rc::new(NodeLink::connect(node, &self.settings).await?);
        self.nodes.borrow_mut().insert(node.clone(), Rc::clone(&link));
        Ok(link)
    }
}

fn put<T>(list: &mut [T], at: usize, value: T) {
    if let Some(place) = list.get_mut(at) {
        *place = value;
    }
}

/// Parses `host:port`. Without a host, it is the server that has answered.
fn node_of(text: &str, from: &StoreNode) -> Option<StoreNode> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match (host.trim_matches(['[', ']']), from) {
        ("" | "?", StoreNode::Tcp { host, .. }) => {
            Some(StoreNode::Tcp { host: host.clone(), port })
        }
        ("" | "?", StoreNode::Unix(_)) => None,
        (host, _) => Some(StoreNode::Tcp { host: host.into(), port }),
    }
}

/// The answer to `CLUSTER SLOTS`. The first server of each range takes writes.
fn ranges(value: &Value, from: &StoreNode) -> Option<Vec<SlotRange>> {
    let Value::Array(rows) = value else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let range = |row: &Value| {
        let Value::Array(row) = row else { return None };
        let [first, last, Value::Array(node), ..] = row.as_slice() else { return None };
        let [host, port, ..] = node.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            _ => "",
        };
        let node = node_of(&format!("{host}:{}", number(port)?), from)?;
        Some(SlotRange { first: number(first)?, last: number(last)?, node })
    };
    rows.iter().map(range).collect()
}

/// The slot of a key: CRC16 (XMODEM) of the text between the first `{` and the next `}`, or of the
/// whole key (the specification of Redis Cluster).
fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_keys() {
        // As reported by `redis-cli CLUSTER KEYSLOT`.
        for (key, slot) in [("123456789", 12_739), ("foo", 12_182), ("{foo}:bar", 12_182)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{}a"), slot_of(b"{}a"));
        assert_ne!(slot_of(b"{}a"), slot_of(b"{}b"), "an empty tag is none");
    }

    #[test]
    fn servers_that_do_not_know_their_name() {
        let from = StoreNode::Tcp { host: "here".into(), port: 1 };
        let tcp = |host: &str, port| Some(StoreNode::Tcp { host: host.into(), port });
        assert_eq!(node_of("10.0.0.1:7000", &from), tcp("10.0.0.1", 7000));
        assert_eq!(node_of(":7001", &from), tcp("here", 7001));
        assert_eq!(node_of("?:7001", &from), tcp("here", 7001));
        assert_eq!(node_of("[::1]:7001", &from), tcp("::1", 7001));
        assert_eq!(node_of("nowhere", &from), None);
    }
}
