// SPDX-License-Identifier: Apache-2.0
//! Who can be asked about idempotency keys: the own control plane and, where several keep one ledger, the others. Whoever answered last is
//! asked first; after a while the own one is tried again.

use super::link::Link;
use super::state::State;
use byrnie_base::Instant;
use byrnie_net::grpc::{Channel, Status};
use byrnie_net::runtime;
use byrnie_net::tls::{self, Roots};
use byrnie_xds::LEDGER_PATH;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1 as wire;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// After so long somebody else has answered, the own control plane is tried again.
const RETURN_AFTER: Duration = Duration::from_secs(5);
/// How long one of several may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Most control planes that are remembered beside the own one.
const OTHERS_MAX: usize = 16;

/// The own control plane, and the others.
pub(super) struct Circle {
    node: Arc<str>,
    link: Rc<Link>,
    state: Arc<State>,
    /// As the own control plane numbers what it has said of the others; 0 if nobody can share its ledger.
    known: Cell<u64>,
    others: RefCell<Vec<Rc<Other>>>,
    /// Who is asked first, and since when: 0 is the own one.
    turn: Cell<(usize, Instant)>,
}

/// Another control plane.
struct Other {
    told: wire::LedgerNeighbour,
    address: SocketAddr,
    roots: Roots,
    held: tokio::sync::Mutex<Option<Channel>>,
}

/// Why there is no answer.
pub(super) enum Silence {
    /// The own control plane said no.
    Refused(Status),
    /// This one can't be asked now.
    Away,
}

impl Circle {
    pub(super) fn new(link: Rc<Link>, state: Arc<State>) -> Self {
        let node = Arc::from(&*state.node);
        let turn = Cell::new((0, runtime::now().mono));
        Self { node, link, state, known: Cell::new(0), others: RefCell::default(), turn }
    }

    /// How many can be asked.
    pub(super) fn len(&self) -> usize {
        1 + self.others.borrow().len()
    }

    /// Whether others may be known to the own control plane, now or later.
    pub(super) fn is_shared(&self) -> bool {
        self.known.get() > 0
    }

    /// Asks whoever is next, until `deadline` at the latest.
    pub(super) async fn ask(
        &self,
        asks: Vec<wire::LedgerAsk>,
        deadline: Instant,
    ) -> Result<Vec<wire::LedgerAnswer>, Silence> {
        let now = runtime::now().mono;
        let (mut at, since) = self.turn.get();
        if at > 0 && now.since(since) > RETURN_AFTER {
            at = 0;
        }
        let other = at.checked_sub(1).and_then(|at| self.others.borrow().get(at).cloned());
        let request = wire::LedgerRequest { node: self.node.to_string(), asks, known: self.known.get() };
        let left = deadline.since(now);
        let patience = if self.len() > 1 { left.min(ANSWER_MAX) } else { left };
        let asked = runtime::timeout(patience, self.call(other.as_deref(), &request)).await;
        match asked.unwrap_or(Err(None)) {
            Ok(response) => {
                if other.is_none() {
                    self.turn.set((0, now));
                    self.learn(&response);
                }
                Ok(response.answers)
            }
            Err(status) => {
                self.pass(at);
                match status.filter(|status| other.is_none() && super::ledger::is_final(status)) {
                    Some(status) => Err(Silence::Refused(status)),
                    None => Err(Silence::Away),
                }
            }
        }
    }

    /// The next is asked from now on, unless that has been so already.
    pub(super) fn pass(&self, from: usize) {
        let (at, _) = self.turn.get();
        if at == from || from == 0 {
            self.turn.set(((from + 1) % self.len(), runtime::now().mono));
        }
    }

    /// Whose turn it is.
    pub(super) fn turn(&self) -> usize {
        self.turn.get().0
    }

    async fn call(
        &self,
        other: Option<&Other>,
        request: &wire::LedgerRequest,
    ) -> Result<wire::LedgerResponse, Option<Status>> {
        let channel = match other {
            None => self.link.channel().await.map_err(|_| None)?,
            Some(other) => other.channel(&self.link).await.ok_or(None)?,
        };
        let answer = channel.unary(LEDGER_PATH, request.encode_to_vec().into()).await.map_err(Some)?;
        wire::LedgerResponse::decode(&*answer).map_err(|_| None)
    }

    /// Takes in what the own control plane says of the others. Who stays keeps its connection.
    fn learn(&self, response: &wire::LedgerResponse) {
        if response.known == self.known.replace(response.known) {
            return;
        }
        let domain = self.state.identity.trust_domain();
        let mut others = self.others.borrow_mut();
        let before = std::mem::take(&mut *others);
        for told in response.neighbours.iter().take(OTHERS_MAX) {
            if let Some(same) = before.iter().find(|other| other.told == *told) {
                others.push(Rc::clone(same));
                continue;
            }
            match (told.address.parse(), Roots::from_pem(&told.roots, domain)) {
                (Ok(address), Ok(roots)) => {
                    let held = tokio::sync::Mutex::new(None);
                    others.push(Rc::new(Other { told: told.clone(), address, roots, held }));
                }
                _ => tracing::warn!(
                    address = told.address,
                    "a control plane that keeps the ledger, too, can't be understood"
                ),
            }
        }
        self.state.find_keepers(others.len());
    }
}

impl Other {
    /// The connection, opened if it isn't.
    async fn channel(&self, link: &Link) -> Option<Channel> {
        let mut held = self.held.lock().await;
        if let Some(channel) = held.as_ref().filter(|channel| !channel.is_closed()) {
            return Some(channel.clone());
        }
        let credentials = link.credentials().trusting(self.roots.clone());
        let tls = tls::client(&credentials).ok()?;
        let channel = Channel::connect(self.address, &tls, link.expected(), None).await.ok()?;
        *held = Some(channel.clone());
        Some(channel)
    }
}
