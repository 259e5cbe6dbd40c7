// SPDX-License-Identifier: Apache-2.0
//! What the engine wants done, and what it is told came of it. A proxy performs a [`Plan`] and reports
//! back; it never decides anything that stands here.

use crate::cluster::{Cluster, Member};
use crate::digits::Digits;
use crate::enlist::Enlistment;
use crate::keyed::{Claim, Recall, Told};
use crate::pick::Pick;
use crate::program::Program;
use crate::queue::Place;
use crate::quota::QuotaAsk;
use crate::{Answer, deadline};
use byrnie_base::{Instant, Now, Text};
use byrnie_codec::{Head, Known};
use byrnie_model::{Identity, Protocol};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What is to be done next.
#[derive(Debug)]
pub enum Effect {
    /// Send the request (or open the connection) as planned. After a first try: send it again.
    Send(Plan),
    /// Answer the caller with this; nothing more is sent upstream. A tunnel closes instead.
    Reply(Box<Answer>),
    /// Hand the response, as edited, to the caller.
    Forward,
    /// Go on waiting for the try under way, now without a time-out for it. Only ever the answer to
    /// [`Failure::TryTimeout`], when nothing else could be tried and the answer may still come.
    Wait,
    /// Ask the control plane for this, and report what it granted with `on_allowance`; nothing may be forwarded before. Only ever at the
    /// callee's proxy, and before any of the following; more than once if there are several quotas.
    Lease(Box<QuotaAsk>),
    /// Ask the coordinator of transactions this, and report what it said with `on_joined`; nothing may be forwarded before. Only
    /// ever at the callee's proxy, first of all.
    Enlist(Box<Enlistment>),
    /// Read the whole body, ask the ledger this, and report its word with `on_word`; nothing may be
    /// forwarded before. Only ever at the callee's proxy, before anything is sent.
    Claim(Box<Claim>),
    /// Wait in the line of the service until this core calls (`Shard::call`), or until the time is over, and report with
    /// `on_turn`; nothing is sent before. Only ever first of all, at the caller's proxy.
    Queue(Place),
    /// Read the whole body, ask the picker of a pool this, and report its word with `on_picked`; nothing may be forwarded
    /// before. Only ever at the caller's proxy or the edge.
    Pick(Box<Pick>),
    /// The ledger's word was [`Word::Done`](crate::Word::Done): give the answer that it keeps, marked as
    /// [`REPLAYED`](crate::REPLAYED).
    Replay,
    /// Ask the program by a GET what became of the earlier request under this key, and report with `on_recalled`; an answer is to
    /// be kept at the ledger before.
    Recall(Box<Recall>),
    /// Gather the response, tell the ledger what `told` says of it, and report with `on_heard`; nothing of
    /// it may be handed on before.
    Keep,
    /// Tell the ledger this, then answer the caller, whatever came of it.
    Settle(Told, Box<Answer>),
}

/// One try.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// When the whole exchange must have ended (with [`Failure::Deadline`] if it hasn't, or [`Failure::DeadlineUnmet`]).
    pub deadline: Option<Instant>,
    /// When the response head must be there, or [`Failure::TryTimeout`] is to be reported.
    pub try_deadline: Option<Instant>,
    /// When, with no response head there yet and the whole request at hand, it is to be asked by `on_slow` for a try
    /// beside this one.
    pub hedge_at: Option<Instant>,
    /// Most time to open a connection, TLS included.
    pub connect_timeout: Duration,
    /// Most time in which nothing moves once the response head or the connection is there, if there is such a limit; then
    /// it has failed with [`Failure::Deadline`].
    pub idle_timeout: Option<Duration>,
    /// Pause before this try; zero nearly always.
    pub delay: Duration,
    /// What to keep and what to write for the tries after this one.
    pub again: Again,
}

/// What following tries need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Number of this try, from 1.
    pub attempt: u8,
    /// Whether another try may follow: only then is it worth to keep a copy of the body. If the copy
    /// grows beyond the proxy's limit, let it go and call `body_gone`.
    pub keep_body: bool,
    /// Retries that are left to those behind (`x-byrnie-retry-budget`): as many as this proxy has for the first
    /// try, none from the second on, so that the retries of a path add up and never multiply. `None`: the
    /// program beside this proxy, which is told what the caller said.
    pub budget: Option<u8>,
}

impl Plan {
    /// Writes into `head` what differs from try to try: the time left (`x-byrnie-deadline-ms`, and
    /// `grpc-timeout` if the caller gave one) and the retries left; and takes out what may not leave the mesh. The first try is stamped already; call it before each further one.
    pub fn stamp(&self, head: &mut Head, now: Now) {
        let later = if matches!(self.target, Target::Program { .. }) { deadline::LATER } else { Duration::ZERO };
        deadline::stamp(head, self.deadline, now.mono + later);
        if let Some(budget) = self.again.budget {
            head.set_known(Known::ByrnieRetryBudget, Digits::of(budget.into()).as_bytes()).ok();
        }
        if let Target::Program { program, .. } = &self.target {
            program.strip(head);
        }
    }
}

/// Where a try goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Over the mesh, to another proxy.
    Mesh(Hop),
    /// To who answers for it, the program beside this proxy or a host outside.
    Program {
        /// Who.
        program: Program,
        /// What is spoken there.
        protocol: Protocol,
    },
}

impl Target {
    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Mesh(hop) => hop.protocol(),
            Self::Program { protocol, .. } => *protocol,
        }
    }
}

/// The way to one endpoint of a cluster.
#[derive(Clone, Debug)]
pub struct Hop {
    pub(crate) member: Arc<Member>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) protocol: Protocol,
}

impl Hop {
    /// The inbound listener of the endpoint's proxy.
    pub fn address(&self) -> SocketAddr {
        self.member.address()
    }

    /// Who must be found there. Anyone else: [`Failure::TlsIdentity`].
    pub fn identity(&self) -> &Identity {
        self.member.identity()
    }

    /// The server name to ask for: `PORT.SERVICE.NAMESPACE.mesh`.
    pub fn sni(&self) -> &Text {
        self.cluster.sni()
    }

    /// What is spoken there: what the service declares or, if it declares nothing, what the caller began with.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Which of several ways to another site this is; 0 for an endpoint of this mesh. Ways share no connection.
    pub fn way(&self) -> u8 {
        self.member.endpoint.way.as_ref().map_or(0, |way| way.number + 1)
    }

    /// The workload.
    pub fn endpoint(&self) -> &Text {
        self.member.name()
    }

    /// The endpoint itself: one value as long as it exists at one address.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

/// What went wrong with a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: refused, unreachable, or the TLS handshake broke.
    Connect,
    /// No connection within [`Plan::connect_timeout`].
    ConnectTimeout,
    /// The other side proved to be someone else.
    TlsIdentity,
    /// The request was provably not processed: `REFUSED_STREAM`, a GOAWAY that leaves it out, or the peer said so.
    Refused,
    /// All streams there may be are taken, so that it wasn't sent.
    Full,
    /// The connection ended before a response head came.
    ResetBeforeHead {
        /// Whether any byte of the request had been written to it.
        request_sent: bool,
    },
    /// [`Plan::try_deadline`] passed.
    TryTimeout,
    /// [`Plan::deadline`] passed.
    Deadline,
    /// The same, before there was a connection.
    DeadlineUnmet,
    /// One of both passed while the rest of the request was waited for, which nobody kept its caller from sending.
    CallerSlow,
    /// The response was malformed; what is wrong with it, in a few words.
    BadResponse(&'static str),
    /// The connection ended after the head had been handed on.
    ResetAfterHead,
    /// The caller went away.
    DownstreamGone,
    /// The same, while the answer to a request that was whole, or the connection for it, was waited for.
    Forsaken,
    /// The caller's request was malformed behind its head.
    BadBody,
    /// The head of the caller's request, with what the mesh adds, is more than can be sent.
    BadHead,
    /// The caller asked by HTTP/2 for another protocol, and the program's answer, which keeps to HTTP, would look to it as if it were
    /// granted (RFC 8441 5).
    NotSwitched,
    /// The request's body exceeds the limit.
    BodyTooLarge,
    /// The proxy was short of memory, of which this exchange kept more than others.
    Strained,
}

impl Failure {
    /// Whether the program provably never saw the request, so that anything may be sent again.
    pub const fn unsent(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::ConnectTimeout
                | Self::TlsIdentity
                | Self::Refused
                | Self::Full
                | Self::DeadlineUnmet
                | Self::ResetBeforeHead { request_sent: false }
        )
    }

    /// Whether a connection stood, and the request was given back unprocessed: the next connection may well take it.
    pub const fn unprocessed(self) -> bool {
        matches!(self, Self::Refused | Self::ResetBeforeHead { request_sent: false })
    }

    /// Whether there was no connection over which anything could have been sent.
    pub const fn unmet(self) -> bool {
        matches!(self, Self::Connect | Self::ConnectTimeout)
    }

    /// Whether nothing was heard of the endpoint at all.
    pub const fn silent(self) -> bool {
        self.unmet() || matches!(self, Self::TryTimeout)
    }

    /// Whether another try could help a request that may be processed twice.
    pub const fn lost(self) -> bool {
        matches!(self, Self::ResetBeforeHead { request_sent: true } | Self::TryTimeout)
    }

    /// Whether it speaks against the endpoint.
    pub const fn speaks_against_endpoint(self) -> bool {
        use Failure::{BadBody, BadHead, BodyTooLarge, CallerSlow, Deadline, DeadlineUnmet, DownstreamGone};
        use Failure::{Forsaken, Full, NotSwitched, Strained};
        let of_caller = matches!(self, DownstreamGone | Forsaken | CallerSlow | BadBody | BadHead | BodyTooLarge);
        !(of_caller || matches!(self, Deadline | DeadlineUnmet | NotSwitched | Full | Strained))
    }

    /// The words for it in a metric or a count; its `Display` says more, where more is known.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect failed",
            Self::ConnectTimeout => "connect timed out",
            Self::TlsIdentity => "wrong identity",
            Self::Refused => "refused before it was processed",
            Self::Full => "no stream left",
            Self::ResetBeforeHead { request_sent: false } => "closed before the request was sent",
            Self::ResetBeforeHead { request_sent: true } => "closed before an answer",
            Self::TryTimeout => "no answer in time",
            Self::Deadline => "deadline passed",
            Self::DeadlineUnmet => "deadline passed before there was a connection",
            Self::CallerSlow => "the request took too long to come",
            Self::BadResponse(_) => "malformed answer",
            Self::ResetAfterHead => "closed within the answer",
            Self::DownstreamGone | Self::Forsaken => "caller gone",
            Self::BadBody => "malformed body",
            Self::BadHead => "head too large to be sent on",
            Self::NotSwitched => "the switch of protocols that was asked for wasn't granted",
            Self::BodyTooLarge => "body too large",
            Self::Strained => "given up for want of memory",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())?;
        match self {
            Self::BadResponse(why) => write!(f, ": {why}"),
            _ => Ok(()),
        }
    }
}

/// How an exchange or a tunnel ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The status that the caller got; 0 if none (and for tunnels).
    pub status: u16,
    /// What went wrong after the last call of the engine, if anything did.
    pub failure: Option<Failure>,
}
