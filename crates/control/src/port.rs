// SPDX-License-Identifier: Apache-2.0
//! The control port: says which method is which role's, and hands each role the peer's proven identity.
//! Signing takes a token instead; everything else is refused without a certificate. Started by
//! `control`.

use crate::ca::{Asker, Authority, issue, token};
use crate::ledger::{Keeper, Whose};
use crate::quota::Limiter;
use crate::registry::{self, Registry};
use crate::transactions::{self, Coordinator};
use crate::{State, ads};
use byrnie_model::Identity;
use byrnie_net::BoxFuture;
use byrnie_net::grpc::{Call, Code, Incoming, Service, Shape, Status};
use byrnie_net::runtime::Shutdown;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::{
    EnlistRequest, LedgerRequest, QuotaRequest, ReportRequest, ReportResponse, SignRequest, SignResponse,
};
use byrnie_xds::{Bytes, DELTA_PATH, ENLIST_PATH, JOIN_PATH, LEDGER_PATH, QUOTA_PATH, REPORT_PATH, SIGN_PATH};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Takes a report of a node, whose name fits its certificate.
pub type Collect = Arc<dyn Fn(&str, &ReportRequest) -> ReportResponse + Send + Sync>;

/// What the roles behind the port need.
#[derive(Clone)]
pub struct Port {
    /// What they share.
    pub state: Arc<State>,
    /// Signs.
    pub authority: Arc<Authority>,
    /// Registers.
    pub registry: Arc<Registry>,
    /// Takes reports.
    pub collect: Collect,
    /// Keeps idempotency keys.
    pub keeper: Arc<Keeper>,
    /// Leases requests under quotas that instances share.
    pub limiter: Arc<Limiter>,
    /// Coordinates transactions.
    pub coordinator: Arc<Coordinator>,
    /// Ends streams, which would last as long as their proxies.
    pub shutdown: Shutdown,
}

impl Service for Port {
    fn shape(&self, path: &str) -> Option<Shape> {
        match path {
            DELTA_PATH | JOIN_PATH => Some(Shape::Stream),
            SIGN_PATH | REPORT_PATH | LEDGER_PATH | QUOTA_PATH | ENLIST_PATH => Some(Shape::Unary),
            _ => None,
        }
    }

    fn unary(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        let port = self.clone();
        Box::pin(async move {
            match call.path.as_str() {
                SIGN_PATH => port.sign(call, &message).await,
                REPORT_PATH => port.report(call, &message),
                LEDGER_PATH => port.ask(call, &message).await,
                QUOTA_PATH => port.lease(call, &message),
                ENLIST_PATH => port.enlist(call, &message).await,
                _ => Err(Status::unimplemented("no such method")),
            }
        })
    }

    fn stream(
        &self,
        call: Call,
        incoming: Incoming,
        outgoing: mpsc::Sender<Bytes>,
    ) -> BoxFuture<'static, Result<(), Status>> {
        let port = self.clone();
        let mut shutdown = self.shutdown.clone();
        Box::pin(async move {
            tokio::select! {
                ended = port.carry(call, incoming, outgoing) => ended,
                () = shutdown.wait() => Err(Status::unavailable("the control plane is stopping; connect again")),
            }
        })
    }
}

impl Port {
    async fn carry(self, call: Call, incoming: Incoming, outgoing: mpsc::Sender<Bytes>) -> Result<(), Status> {
        let peer = proven(&call)?;
        match call.path.as_str() {
            DELTA_PATH => ads::serve::stream(self.state, peer, incoming, outgoing).await,
            JOIN_PATH => registry::api::stream(self.state, self.registry, peer, incoming, outgoing).await,
            _ => Err(Status::unimplemented("no such method")),
        }
    }

    async fn sign(&self, call: Call, message: &[u8]) -> Result<Bytes, Status> {
        let request = SignRequest::decode(message).map_err(|_| Status::invalid_argument("no SignRequest"))?;
        let token = Some(request.token).filter(|token| !token.is_empty()).or(call.token);
        let asker = match (token, call.peer.identity) {
            (Some(token), _) => Asker::Token(token),
            (None, Some(peer)) => Asker::Peer(peer),
            (None, None) => {
                return Err(Status::unauthenticated("signing needs a join token or a current certificate"));
            }
        };
        let answer = self.authority.issue(&self.state, asker, &request.csr, &[]).await.map_err(|error| {
            tracing::warn!(remote = %call.remote, %error, "no certificate was issued");
            refusal(&error)
        })?;
        let response = SignResponse {
            identity: answer.certificate.identity.to_string(),
            chain: answer.chain_pem,
            roots: self.authority.roots().pem().to_string(),
            not_after: answer.certificate.not_after.as_secs(),
        };
        Ok(response.encode_to_vec().into())
    }

    fn report(&self, call: Call, message: &[u8]) -> Result<Bytes, Status> {
        let peer = proven(&call)?;
        let request = ReportRequest::decode(message).map_err(|_| Status::invalid_argument("no ReportRequest"))?;
        if !self.state.owns(&request.node, &peer) {
            return Err(Status::permission_denied(format!("{peer} is not the identity of node {}", request.node)));
        }
        Ok((self.collect)(&request.node, &request).encode_to_vec().into())
    }
}

impl Port {
    async fn ask(&self, call: Call, message: &[u8]) -> Result<Bytes, Status> {
        let peer = proven(&call)?;
        let request = LedgerRequest::decode(message).map_err(|_| Status::invalid_argument("no LedgerRequest"))?;
        Ok(self.keeper.answer(&self.state, (&peer, Whose::Own), request).await?.encode_to_vec().into())
    }

    fn lease(&self, call: Call, message: &[u8]) -> Result<Bytes, Status> {
        let peer = proven(&call)?;
        let request = QuotaRequest::decode(message).map_err(|_| Status::invalid_argument("no QuotaRequest"))?;
        Ok(self.limiter.answer(&self.state, &peer, request)?.encode_to_vec().into())
    }

    async fn enlist(&self, call: Call, message: &[u8]) -> Result<Bytes, Status> {
        let peer = proven(&call)?;
        let request = EnlistRequest::decode(message).map_err(|_| Status::invalid_argument("no EnlistRequest"))?;
        Ok(transactions::enlist(&self.coordinator, &peer, request).await?.encode_to_vec().into())
    }
}

/// The identity that the peer has proven.
pub(crate) fn proven(call: &Call) -> Result<Identity, Status> {
    call.peer.identity.clone().ok_or_else(|| Status::unauthenticated("this needs a certificate of the mesh"))
}

fn refusal(error: &issue::Error) -> Status {
    let code = match error {
        issue::Error::Token(token::Error::Refused) => Code::Unauthenticated,
        issue::Error::NoProof(_) => Code::PermissionDenied,
        issue::Error::Request(_) => Code::InvalidArgument,
        issue::Error::Token(token::Error::Store(_)) | issue::Error::Store(_) => Code::Unavailable,
        issue::Error::Token(_) | issue::Error::File { .. } => Code::Internal,
    };
    Status::new(code, error.to_string())
}
