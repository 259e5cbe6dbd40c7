// SPDX-License-Identifier: Apache-2.0
//! The words: what a transaction is asked to do, and how far each of its branches has come. Plain data.
//! The coordinator makes a [`Spec`] from a request; `plan` judges it; the machine alone moves it.

use byrnie_base::{Text, Timestamp};
use serde::{Deserialize, Serialize};

/// Most branches of one transaction.
pub const BRANCHES_MAX: usize = 256;
/// Sagas above one another, the first one left out.
pub const DEPTH_MAX: u8 = 4;
/// Sagas that one saga may have below it, at any depth.
pub const NESTED_MAX: usize = 256;
/// Longest id of a transaction, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Longest body of a call, and longest answer that is kept for the compensation, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Media type of a call by gRPC: the body is the message in base64.
pub const GRPC: &str = "application/grpc";

/// What kind of transaction it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Actions in an order, each with a compensation (Garcia-Molina and Salem, 1987).
    Saga,
    /// Calls that must happen once a local transaction has committed (two-phase message with check-back).
    Message,
    /// Try, then confirm or cancel.
    Tcc,
    /// Participants join while it is active, and are completed or compensated at its end (MicroProfile LRA).
    Scope,
}

/// A transaction as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spec {
    /// What kind it is.
    pub mode: Mode,
    /// Who asked: an identity, or `operator`.
    pub creator: Text,
    /// When, by the coordinator's clock.
    pub created: Timestamp,
    /// After this moment nothing new is begun: what can be undone is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// It waits for the caller's word before it does anything.
    #[serde(default)]
    pub open: bool,
    /// Whom to ask what became of the caller, for a prepared message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Call>,
    /// What to do, in the order given.
    pub branches: Vec<Branch>,
    /// How answers are understood.
    #[serde(default)]
    pub rules: Rules,
    /// The definition it was started from; empty for none.
    #[serde(default)]
    pub definition: Text,
    /// What it was started with, JSON: expressions of late calls refer to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Text>,
    /// Tells two requests for the same id apart.
    #[serde(default)]
    pub fingerprint: Text,
    /// The saga that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// Whose part a saga is. It is ended by that one's word alone, once all of it is done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parent {
    /// The transaction.
    pub id: Text,
    /// Its branch.
    pub branch: Text,
    /// How many sagas are above this one, from 1.
    pub depth: u8,
}

/// A saga that is run as a branch of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Child {
    /// By a definition, which is looked up when it's begun.
    Defined {
        /// `NAMESPACE/NAME`.
        definition: Text,
        /// What it is started with, JSON.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Text>,
        /// An expression for that, over answers of branches before it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        late: Option<Text>,
    },
    /// As it was asked for with its parent.
    Given {
        /// What it does; its moment is that of its parent.
        spec: Box<Spec>,
        /// How long it may take from its own beginning, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        span_ms: Option<u64>,
    },
}

/// One participant's part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Branch {
    /// Its name, unique in the transaction.
    pub name: Text,
    /// Branches, by position, whose action comes before this one's.
    #[serde(default)]
    pub after: Vec<u16>,
    /// The action of a saga, or the try of TCC if the coordinator makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Call>,
    /// What makes it final: the call of a message, the confirm of TCC, the complete of a scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<Call>,
    /// What takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Call>,
    /// Once its action is done there is no way back.
    #[serde(default)]
    pub pivot: bool,
    /// Its action changes nothing that would have to be taken back.
    #[serde(default)]
    pub free: bool,
    /// Its undo is written with what its action answered: an action that may have been called is called until
    /// it's answered, and undone then.
    #[serde(default)]
    pub answer_first: bool,
    /// Its participant asked for it, so that the creator needs no leave for its calls.
    #[serde(default)]
    pub consent: bool,
    /// How often and how long it is called.
    #[serde(default)]
    pub retry: Retry,
    /// It's a saga of its own; its calls stand for that one's beginning, release and undoing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<Box<Child>>,
}

/// One call of a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// Where to.
    pub target: Target,
    /// What is sent: a text, JSON unless `kind` says otherwise; see [`GRPC`] too. Absent: for an undo, what was sent to the
    /// action and what it answered; otherwise nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Text>,
    /// Media type of the body.
    #[serde(default = "json_type")]
    pub kind: Text,
    /// Further header fields, as the caller gave them.
    #[serde(default)]
    pub headers: Vec<(Text, Text)>,
    /// What is known only when it's made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Box<Late>>,
}

/// Parts of a call that are written with expressions over the input and the answers of branches before it.
/// Where one stands, the call's own part is a stand-in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Late {
    /// A path with expressions in braces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Text>,
    /// An expression for the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Text>,
}

impl Call {
    /// Whether it's a unary call of gRPC.
    pub fn is_grpc(&self) -> bool {
        *self.kind == *GRPC
    }
}

fn json_type() -> Text {
    "application/json".into()
}

/// `METHOD SERVICE/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Upper case.
    pub method: Text,
    /// Service and namespace, `SERVICE.NAMESPACE`, perhaps with a port; host and port of a raw URL.
    pub authority: Text,
    /// Path and query, beginning with `/`.
    pub path: Text,
    /// A raw URL outside the mesh.
    #[serde(default)]
    pub raw: bool,
}

impl Target {
    /// Where it is: `SERVICE.NAMESPACE` whatever the port, as one service comes back as a whole; host and port of a
    /// raw URL.
    pub fn place(&self) -> &str {
        match self.authority.split_once(':') {
            Some((service, _)) if !self.raw => service,
            _ => &self.authority,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn no_time(millis: &u64) -> bool {
    *millis == 0
}

/// How often and how long a branch is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// Calls of the action whose outcome stays unknown, after which the way back is taken; 0 for no limit.
    pub attempts: u32,
    /// How long the action is called without a definite answer, in milliseconds from the first such call on: then the way
    /// back is taken or, where there is none any more, an operator has to look; 0 for no limit.
    #[serde(default, skip_serializing_if = "no_time")]
    pub for_ms: u64,
    /// Longest first pause, in milliseconds; doubled with every further call, up to `cap_ms`.
    pub first_ms: u64,
    /// Longest pause, in milliseconds.
    pub cap_ms: u64,
    /// How long one call may take, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for Retry {
    /// No limit of calls or of time, pauses of at most 200 ms to 30 s, 10 s a call.
    fn default() -> Self {
        Self { attempts: 0, for_ms: 0, first_ms: 200, cap_ms: 30_000, timeout_ms: 10_000 }
    }
}

/// How answers of participants are understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules {
    /// Statuses by which a participant says no for business reasons.
    pub rejected: Vec<u16>,
    /// A client error that isn't a business no is asked again for ever, instead of waiting for an operator.
    #[serde(default)]
    pub patient: bool,
    /// A branch that said no is undone as well (dtm's way, whose barrier makes that harmless).
    #[serde(default)]
    pub undo_rejected: bool,
    /// Calls carry dtm's query parameters, and a compensation gets the action's body.
    #[serde(default)]
    pub dtm: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { rejected: vec![409, 422], patient: false, undo_rejected: false, dtm: false }
    }
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The action, the try.
    Action,
    /// The confirm, the complete, the delivery of a message.
    Confirm,
    /// The compensation, the cancel.
    Undo,
    /// The question to the creator of a prepared message.
    Check,
}

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for its creator.
    Open,
    /// Actions are called; there may be a way back.
    Acting,
    /// All of it is done; the saga that it is a part of keeps it, or has it taken back.
    Held,
    /// There is no way back: what is left is called until it's done.
    Confirming,
    /// What was done is undone.
    Undoing,
    /// Nothing is left to do.
    Ended(End),
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Everything is done.
    Done,
    /// Everything that was done is undone.
    Undone,
    /// An operator declared it settled.
    Resolved,
}

/// How far one call of a branch has come, as far as that is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Not needed.
    #[default]
    Absent,
    /// Not known to be done; it may have been sent.
    Pending,
    /// Done.
    Done,
    /// The participant said no.
    Rejected,
    /// Only an operator can go on.
    Stuck,
}

/// How far a branch has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The action.
    pub action: Slot,
    /// The confirm.
    pub confirm: Slot,
    /// The undo.
    pub undo: Slot,
    /// What the action answered.
    pub answer: Option<Text>,
    /// Where to ask for an outcome that is being worked on, by the participant's word.
    pub poll: Option<Text>,
    /// Why the last thing happened that happened; empty if all is well.
    pub reason: Text,
}

impl Progress {
    /// The slot of an op; a check belongs to no branch.
    pub const fn slot(&self, op: Op) -> Slot {
        match op {
            Op::Action => self.action,
            Op::Confirm => self.confirm,
            Op::Undo => self.undo,
            Op::Check => Slot::Absent,
        }
    }

    pub(crate) const fn set(&mut self, op: Op, slot: Slot) {
        match op {
            Op::Action => self.action = slot,
            Op::Confirm => self.confirm = slot,
            Op::Undo => self.undo = slot,
            Op::Check => {}
        }
    }

    /// The op that an operator has to look at, if any.
    pub fn stuck(&self) -> Option<Op> {
        [Op::Action, Op::Confirm, Op::Undo].into_iter().find(|op| self.slot(*op) == Slot::Stuck)
    }
}

impl Branch {
    /// Whether a call of its action that may have been made can't be left unanswered: nothing takes it back.
    pub const fn must_answer(&self) -> bool {
        self.action.is_some() && (self.pivot || (self.undo.is_none() && !self.free))
    }

    /// The call of an op.
    pub const fn call(&self, op: Op) -> Option<&Call> {
        match op {
            Op::Action => self.action.as_ref(),
            Op::Confirm => self.confirm.as_ref(),
            Op::Undo => self.undo.as_ref(),
            Op::Check => None,
        }
    }
}
