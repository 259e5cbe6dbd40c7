// SPDX-License-Identifier: Apache-2.0
//! The definition of a saga: steps over services, written once and started often, each time with its own
//! input. Valid by construction: names are unique, steps wait for earlier ones alone, expressions name
//! only what is known by then.

use crate::ServiceRef;
use byrnie_base::Text;
use std::time::Duration;

/// Steps of one saga.
pub const STEPS_MAX: usize = 256;
/// The name of the input in expressions.
pub const INPUT: &str = "input";
/// The name, in the expression for the key, of the request that starts it.
pub const REQUEST: &str = "request";

/// What a saga does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saga {
    /// How long it may take before the way back is taken, unless the pivot is done; absent: any time.
    pub deadline: Option<Duration>,
    /// An expression over `input` and `request.headers`: starts of the same key are one run.
    pub key: Option<Text>,
    /// Statuses by which a participant says no for business reasons; absent: the usual ones.
    pub rejected: Option<Vec<u16>>,
    /// What is done, in the order given.
    pub steps: Vec<Step>,
}

/// One participant's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name, by which expressions of later steps know its answer.
    pub name: Text,
    /// What it does.
    pub does: Does,
    /// What takes it back; a saga is taken back as a whole by itself.
    pub undo: Option<Undo>,
    /// Earlier steps, by position, that come before it.
    pub after: Vec<u16>,
    /// Once it is done there is no way back.
    pub pivot: bool,
    /// How often and how long it is called.
    pub retry: Patience,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// A call.
    Call {
        /// `METHOD SERVICE/PATH`; the path may hold expressions in braces.
        call: Text,
        /// An expression for what is sent.
        body: Option<Text>,
    },
    /// Another saga, as a whole.
    Saga {
        /// `NAME`, or `NAMESPACE/NAME`.
        saga: Text,
        /// An expression for its input.
        input: Option<Text>,
    },
}

/// What takes a step back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Nothing has to.
    Nothing,
    /// A call.
    Call {
        /// As that of the step.
        call: Text,
        /// An expression for what is sent. Absent: what the step was sent, and what it answered.
        body: Option<Text>,
    },
}

/// How often and how long a step is called; absent: the coordinator's usual way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// Calls without a definite answer, after which the way back is taken.
    pub attempts: Option<u32>,
    /// How long it is called without a definite answer; then the way back is taken or, past the pivot, an operator looks.
    pub span: Option<Duration>,
    /// The first pause between calls at the longest, and the longest of all.
    pub backoff: Option<(Duration, Duration)>,
    /// The longest time for one call.
    pub timeout: Option<Duration>,
}

/// Methods of calls.
pub const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Namespace and name of a saga that a step of one in `namespace` names.
pub fn named<'a>(saga: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    saga.split_once('/').unwrap_or((namespace, saga))
}

/// Method, authority and path of `METHOD SERVICE[.NAMESPACE][:PORT]/PATH`.
pub fn target(call: &str) -> Option<(&str, &str, &str)> {
    let (method, place) = call.split_once(' ')?;
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    Some((method, authority, path))
}

/// The service of an authority; a bare name is of `namespace`.
pub fn service(authority: &str, namespace: &str) -> ServiceRef {
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    let host = host.strip_suffix(".mesh").unwrap_or(host);
    let (name, namespace) = host.split_once('.').unwrap_or((host, namespace));
    ServiceRef::new(namespace, name)
}
