// SPDX-License-Identifier: Apache-2.0
//! Control planes that keep one ledger answer each other's proxies, so that keyed requests go on while one of them is dead. Each has a port
//! for that, at which nothing else is served: there the certificates count that the others' authorities gave. Which those are stands in
//! the database; so whoever can write there may speak of any key, as of any transaction.

use super::{Keeper, Whose};
use crate::State;
use crate::ca::{Authority, issue};
use crate::control::{ACCOUNT, is_due};
use crate::port::proven;
use byrnie_net::BoxFuture;
use byrnie_net::grpc::{self, Call, Incoming, Service, Shape, Status};
use byrnie_net::listen::{self, Share};
use byrnie_net::runtime::{self, Shutdown};
use byrnie_net::tls::ca::Name;
use byrnie_net::tls::{self, Credentials, Roots, ServerTls};
use byrnie_store::ledger::Neighbour;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::LedgerRequest;
use byrnie_xds::{Bytes, LEDGER_PATH};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often a control plane tells where it is, and looks where the others are.
const MEET_EVERY: Duration = Duration::from_secs(2);

/// What it takes to answer the proxies of others.
pub(crate) struct Neighbours {
    pub(crate) state: Arc<State>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) keeper: Arc<Keeper>,
    /// By which this control plane is known.
    pub(crate) names: Vec<Name>,
}

/// Who answers at the port, and for whom.
struct Door {
    tls: ServerTls,
    credentials: Credentials,
}

impl Neighbours {
    /// Answers for as long as the control plane runs, at a port of `ip`; comes back at once if nobody can share the ledger.
    pub(crate) async fn run(self, ip: IpAddr, shutdown: Shutdown) {
        if !self.keeper.ledger.is_shared() {
            return;
        }
        let listener = match listen::bind(SocketAddr::new(ip, 0), Share::Alone) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "there is no port for the proxies of other control planes"),
        };
        let own = Neighbour {
            address: listener.local_addr().to_string().into(),
            roots: self.authority.roots().pem().clone(),
        };
        let mut door = loop {
            match self.open().await {
                Ok(door) => break door,
                Err(error) => tracing::error!(%error, "no certificate for the port of other control planes' proxies"),
            }
            runtime::sleep(MEET_EVERY).await;
        };
        let serve = grpc::serve(listener, door.tls.clone(), Arc::new(self.answers()), shutdown);
        let meet = async {
            loop {
                // Without an answer all stays as it is; who asks about keys hears of it.
                if let Ok(others) = self.keeper.ledger.meet(own.clone()).await
                    && let Err(error) = self.take_in(&mut door, others).await
                {
                    tracing::error!(%error, "the proxies of other control planes can't be let in; it is tried again");
                }
                runtime::sleep(MEET_EVERY).await;
            }
        };
        tokio::select! {
            () = serve => {}
            () = meet => {}
        }
    }

    async fn open(&self) -> Result<Door, issue::Error> {
        let credentials = self.authority.own(&self.state, ACCOUNT, &self.names).await?;
        let tls = tls::server(&credentials, &[tls::ALPN_H2]).map_err(issue::Error::Request)?;
        Ok(Door { tls, credentials })
    }

    /// Lets the proxies of these in, and names them to the own ones.
    async fn take_in(&self, door: &mut Door, others: Vec<Neighbour>) -> Result<(), issue::Error> {
        let roots = self.roots(&others);
        let due = is_due(&door.credentials, self.state.now().wall);
        if due || roots.pem() != door.credentials.roots().pem() {
            let credentials = if due {
                self.authority.own(&self.state, ACCOUNT, &self.names).await?
            } else {
                door.credentials.clone()
            };
            let credentials = credentials.trusting(roots);
            door.tls.renew(&tls::server(&credentials, &[tls::ALPN_H2]).map_err(issue::Error::Request)?);
            door.credentials = credentials;
        }
        self.keeper.know(others);
        Ok(())
    }

    /// The own authority and those of the others; what is none of this trust domain is left out.
    fn roots(&self, others: &[Neighbour]) -> Roots {
        let own = self.authority.roots();
        others.iter().fold(own.clone(), |all, other| {
            let more = format!("{}\n{}", all.pem(), other.roots);
            match Roots::from_pem(&more, own.trust_domain()) {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(address = %other.address, %error, "a control plane's certificates can't be read");
                    all
                }
            }
        })
    }

    fn answers(&self) -> Answers {
        Answers { state: Arc::clone(&self.state), keeper: Arc::clone(&self.keeper) }
    }
}

/// The port's one service.
struct Answers {
    state: Arc<State>,
    keeper: Arc<Keeper>,
}

impl Service for Answers {
    fn shape(&self, path: &str) -> Option<Shape> {
        (path == LEDGER_PATH).then_some(Shape::Unary)
    }

    fn unary(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        let (state, keeper) = (Arc::clone(&self.state), Arc::clone(&self.keeper));
        Box::pin(async move {
            let peer = proven(&call)?;
            let request = LedgerRequest::decode(message).map_err(|_| Status::invalid_argument("no LedgerRequest"))?;
            Ok(keeper.answer(&state, (&peer, Whose::Neighbours), request).await?.encode_to_vec().into())
        })
    }

    fn stream(&self, _: Call, _: Incoming, _: mpsc::Sender<Bytes>) -> BoxFuture<'static, Result<(), Status>> {
        Box::pin(async { Err(Status::unimplemented("no such method")) })
    }
}
