// SPDX-License-Identifier: Apache-2.0
//! Why the mesh itself answered or failed: one row each for the metric label, the log field, the
//! status and the BYR- code. Every failure on the data path maps to exactly one reason.

use crate::Failure;
use byrnie_model::code::{self, Code};

/// Why the mesh itself answered or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No policy lets this caller make this call.
    AccessDenied,
    /// A route answered with a redirect. No failure.
    Redirect,
    /// A route answered a browser's preflight. No failure.
    Preflight,
    /// A route answered by itself. No failure.
    DirectResponse,
    /// The service exists, but no rule of its routes fits.
    NoRoute,
    /// The name asked for is no service that this proxy may see.
    UnknownService,
    /// The host is another listener's than the one that the connection was made for.
    Misdirected,
    /// The workload does not serve the service asked for (or doesn't know yet that it does).
    NotServed,
    /// Not one endpoint may be sent requests.
    NoEndpoint,
    /// The route has no backend that exists, is granted and has any weight, or what is needed to reach it safely is absent.
    BackendAbsent,
    /// The time for the request, or for its last try, ran out.
    Timeout,
    /// Too many requests are under way.
    Overload,
    /// The proxy is short of memory, files or processor time.
    Strain,
    /// Too many requests to the service have failed.
    NotAdmitted,
    /// The rate limit is reached.
    RateLimited,
    /// A policy injects this fault on purpose.
    FaultInjected,
    /// The request can't be understood in one way only.
    BadRequest,
    /// The other side proved to be someone else.
    IdentityMismatch,
    /// No connection could be opened.
    ConnectFailure,
    /// The other side refused the request each time, provably before it was processed.
    Unprocessed,
    /// The connection ended before the answer was complete.
    UpstreamReset,
    /// The answer was malformed.
    BadResponse,
    /// The picker of a pool named no member of it, or could not be asked.
    PickFailed,
    /// The picker of a pool answered the request itself. No failure.
    PickerAnswer,
    /// The body exceeds the limit.
    BodyTooLarge,
    /// The caller went away.
    DownstreamGone,
    /// The proxy is shutting down.
    Draining,
    /// The service asks for an idempotency key, and there is none, or none that can be read.
    KeyMissing,
    /// The idempotency key was used for another request.
    KeyMismatch,
    /// The request under this idempotency key is still under way.
    KeyInFlight,
    /// An earlier request under this idempotency key ended nobody knows how.
    KeyAmbiguous,
    /// The ledger of idempotency keys isn't reached.
    LedgerUnreachable,
    /// The call ends a part of a transaction, and isn't the coordinator's.
    CoordinatorOnly,
    /// The caller may not bring this service into the transaction.
    TransactionDenied,
    /// The transaction isn't there, or takes nobody any more.
    TransactionClosed,
    /// The coordinator of transactions isn't reached.
    CoordinatorUnreachable,
    /// The engine could not do its work.
    Internal,
}

/// Whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The caller's.
    Downstream,
    /// The called program's or its proxy's.
    Upstream,
    /// A policy said so.
    Policy,
    /// byrnie's own.
    Mesh,
}

impl Reason {
    /// All reasons, for tables of documentation and metrics.
    pub const ALL: [Self; 37] = [
        Self::AccessDenied,
        Self::Redirect,
        Self::Preflight,
        Self::DirectResponse,
        Self::NoRoute,
        Self::UnknownService,
        Self::Misdirected,
        Self::NotServed,
        Self::NoEndpoint,
        Self::BackendAbsent,
        Self::Timeout,
        Self::Overload,
        Self::Strain,
        Self::NotAdmitted,
        Self::RateLimited,
        Self::FaultInjected,
        Self::BadRequest,
        Self::IdentityMismatch,
        Self::ConnectFailure,
        Self::Unprocessed,
        Self::UpstreamReset,
        Self::BadResponse,
        Self::PickFailed,
        Self::PickerAnswer,
        Self::BodyTooLarge,
        Self::DownstreamGone,
        Self::Draining,
        Self::KeyMissing,
        Self::KeyMismatch,
        Self::KeyInFlight,
        Self::KeyAmbiguous,
        Self::LedgerUnreachable,
        Self::CoordinatorOnly,
        Self::TransactionDenied,
        Self::TransactionClosed,
        Self::CoordinatorUnreachable,
        Self::Internal,
    ];

    /// The entry of the BYR- registry; `None` for what is no failure.
    pub const fn code(self) -> Option<&'static Code> {
        Some(match self {
            Self::Redirect | Self::Preflight | Self::DirectResponse | Self::PickerAnswer => return None,
            Self::AccessDenied => &code::ACCESS_DENIED,
            Self::NoRoute | Self::UnknownService => &code::NO_ROUTE,
            Self::Misdirected => &code::MISDIRECTED,
            Self::NotServed | Self::NoEndpoint => &code::NO_ENDPOINT,
            Self::BackendAbsent => &code::BACKEND_ABSENT,
            Self::Timeout => &code::TIMEOUT,
            Self::Overload => &code::OVERLOAD,
            Self::Strain => &code::STRAIN,
            Self::NotAdmitted => &code::NOT_ADMITTED,
            Self::RateLimited => &code::RATE_LIMITED,
            Self::FaultInjected => &code::FAULT_INJECTED,
            Self::BadRequest => &code::BAD_REQUEST,
            Self::IdentityMismatch => &code::IDENTITY_MISMATCH,
            Self::ConnectFailure => &code::CONNECT_FAILURE,
            Self::Unprocessed => &code::UNPROCESSED,
            Self::UpstreamReset => &code::UPSTREAM_RESET,
            Self::BadResponse => &code::BAD_RESPONSE,
            Self::PickFailed => &code::PICK_FAILED,
            Self::BodyTooLarge => &code::BODY_TOO_LARGE,
            Self::DownstreamGone => &code::DOWNSTREAM_GONE,
            Self::Draining => &code::DRAINING,
            Self::KeyMissing => &code::KEY_MISSING,
            Self::KeyMismatch => &code::KEY_MISMATCH,
            Self::KeyInFlight => &code::KEY_IN_FLIGHT,
            Self::KeyAmbiguous => &code::KEY_AMBIGUOUS,
            Self::LedgerUnreachable => &code::LEDGER_UNREACHABLE,
            Self::CoordinatorOnly => &code::COORDINATOR_ONLY,
            Self::TransactionDenied => &code::TRANSACTION_DENIED,
            Self::TransactionClosed => &code::TRANSACTION_CLOSED,
            Self::CoordinatorUnreachable => &code::COORDINATOR_UNREACHABLE,
            Self::Internal => &code::INTERNAL,
        })
    }

    /// The metric label `reason` and the log field. Stable.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::Redirect => "redirect",
            Self::Preflight => "preflight",
            Self::DirectResponse => "direct_response",
            Self::NoRoute => "no_route",
            Self::UnknownService => "unknown_service",
            Self::Misdirected => "misdirected",
            Self::NotServed => "not_served",
            Self::NoEndpoint => "no_endpoint",
            Self::BackendAbsent => "backend_absent",
            Self::Timeout => "timeout",
            Self::Overload => "overload",
            Self::Strain => "strain",
            Self::NotAdmitted => "not_admitted",
            Self::RateLimited => "rate_limited",
            Self::FaultInjected => "fault_injected",
            Self::BadRequest => "bad_request",
            Self::IdentityMismatch => "identity_mismatch",
            Self::ConnectFailure => "connect_failure",
            Self::Unprocessed => "unprocessed",
            Self::UpstreamReset => "upstream_reset",
            Self::BadResponse => "bad_response",
            Self::PickFailed => "pick_failed",
            Self::PickerAnswer => "picker_answer",
            Self::BodyTooLarge => "body_too_large",
            Self::DownstreamGone => "downstream_gone",
            Self::Draining => "draining",
            Self::KeyMissing => "key_missing",
            Self::KeyMismatch => "key_mismatch",
            Self::KeyInFlight => "key_in_flight",
            Self::KeyAmbiguous => "key_ambiguous",
            Self::LedgerUnreachable => "ledger_unreachable",
            Self::CoordinatorOnly => "coordinator_only",
            Self::TransactionDenied => "transaction_denied",
            Self::TransactionClosed => "transaction_closed",
            Self::CoordinatorUnreachable => "coordinator_unreachable",
            Self::Internal => "internal",
        }
    }

    /// The status of an HTTP answer made for this reason. A redirect and an answer of a route's own bring theirs.
    pub const fn status(self) -> u16 {
        match self {
            Self::DirectResponse => 200,
            Self::Preflight => 204,
            Self::Redirect => 302,
            Self::BadRequest | Self::KeyMissing => 400,
            Self::AccessDenied | Self::CoordinatorOnly | Self::TransactionDenied => 403,
            Self::NoRoute | Self::UnknownService => 404,
            Self::KeyInFlight | Self::KeyAmbiguous => 409,
            // As LRA answers who wants to join what is over.
            Self::TransactionClosed => 412,
            Self::BodyTooLarge => 413,
            Self::Misdirected => 421,
            Self::KeyMismatch => 422,
            // The picker says its own; usually this one.
            Self::RateLimited | Self::PickerAnswer => 429,
            // nginx's word for a caller that left; nobody receives it.
            Self::DownstreamGone => 499,
            Self::BackendAbsent | Self::Internal => 500,
            Self::BadResponse | Self::IdentityMismatch => 502,
            Self::NotServed
            | Self::NoEndpoint
            | Self::Overload
            | Self::Strain
            | Self::NotAdmitted
            | Self::FaultInjected
            | Self::ConnectFailure
            | Self::Unprocessed
            | Self::UpstreamReset
            | Self::LedgerUnreachable
            | Self::CoordinatorUnreachable
            | Self::PickFailed
            | Self::Draining => 503,
            Self::Timeout => 504,
        }
    }

    /// The gRPC status of an answer made for this reason
    /// (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::DownstreamGone => 1,
            // ABORTED and FAILED_PRECONDITION mean in transactions that the program refused, or is at it.
            Self::Redirect | Self::Preflight | Self::DirectResponse | Self::KeyAmbiguous => 2,
            Self::KeyMissing | Self::KeyMismatch | Self::TransactionClosed => 3,
            Self::Timeout => 4,
            Self::AccessDenied | Self::CoordinatorOnly | Self::TransactionDenied => 7,
            Self::RateLimited | Self::BodyTooLarge | Self::PickerAnswer => 8,
            Self::NoRoute | Self::UnknownService | Self::Misdirected => 12,
            Self::Internal | Self::BadResponse | Self::BadRequest => 13,
            // As GRPCRoute asks for a backend that can't be resolved.
            Self::BackendAbsent
            | Self::NotServed
            | Self::NoEndpoint
            | Self::Overload
            | Self::Strain
            | Self::NotAdmitted
            | Self::FaultInjected
            | Self::ConnectFailure
            | Self::Unprocessed
            | Self::UpstreamReset
            | Self::IdentityMismatch
            | Self::KeyInFlight
            | Self::LedgerUnreachable
            | Self::CoordinatorUnreachable
            | Self::PickFailed
            | Self::Draining => 14,
        }
    }

    /// Whether it's what a route was meant to do, and no failure.
    pub const fn is_meant(self) -> bool {
        self.code().is_none()
    }

    /// Whose doing it was.
    pub const fn blame(self) -> Blame {
        match self {
            Self::BadRequest
            | Self::UnknownService
            | Self::Misdirected
            | Self::BodyTooLarge
            | Self::DownstreamGone
            | Self::KeyMissing
            | Self::KeyMismatch
            | Self::KeyInFlight
            | Self::TransactionDenied
            | Self::TransactionClosed => Blame::Downstream,
            Self::AccessDenied
            | Self::Redirect
            | Self::Preflight
            | Self::DirectResponse
            | Self::NoRoute
            | Self::BackendAbsent
            | Self::RateLimited
            | Self::NotAdmitted
            | Self::FaultInjected
            | Self::PickerAnswer
            | Self::CoordinatorOnly => Blame::Policy,
            Self::NoEndpoint
            | Self::Timeout
            | Self::ConnectFailure
            | Self::Unprocessed
            | Self::UpstreamReset
            | Self::BadResponse
            | Self::PickFailed
            | Self::KeyAmbiguous => Blame::Upstream,
            Self::NotServed
            | Self::Overload
            | Self::Strain
            | Self::IdentityMismatch
            | Self::Draining
            | Self::LedgerUnreachable
            | Self::CoordinatorUnreachable
            | Self::Internal => Blame::Mesh,
        }
    }

    /// Whether the caller may try again with hope, if its request allows it.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::NotServed
                | Self::NoEndpoint
                | Self::PickFailed
                | Self::Timeout
                | Self::Overload
                | Self::Strain
                | Self::NotAdmitted
                | Self::RateLimited
                | Self::ConnectFailure
                | Self::Unprocessed
                | Self::UpstreamReset
                | Self::KeyInFlight
                | Self::LedgerUnreachable
                | Self::CoordinatorUnreachable
                | Self::Draining
        )
    }

    /// The reason of an answer made after `failure`.
    pub const fn of(failure: Failure) -> Self {
        match failure {
            Failure::Connect | Failure::ConnectTimeout => Self::ConnectFailure,
            Failure::Refused => Self::Unprocessed,
            Failure::Full => Self::Overload,
            Failure::TlsIdentity => Self::IdentityMismatch,
            Failure::ResetBeforeHead { .. } | Failure::ResetAfterHead => Self::UpstreamReset,
            Failure::TryTimeout | Failure::Deadline | Failure::DeadlineUnmet | Failure::CallerSlow => Self::Timeout,
            Failure::BadResponse(_) | Failure::NotSwitched => Self::BadResponse,
            Failure::DownstreamGone | Failure::Forsaken => Self::DownstreamGone,
            Failure::BadBody | Failure::BadHead => Self::BadRequest,
            Failure::BodyTooLarge => Self::BodyTooLarge,
            Failure::Strained => Self::Strain,
        }
    }
}
