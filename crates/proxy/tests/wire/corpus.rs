// SPDX-License-Identifier: Apache-2.0
//! Payloads that hide requests, what must come of each, and how they are sent: at once, and cut at random points.
//! Whatever stands between them and the program is judged by its answers, its counts and what reached the program.

use crate::cases;
use crate::crafted::{NUMBER, Verdict, crafted};
use crate::payloads::payloads;
use crate::recorded::{Asked, Reached};
use crate::world::{Peer, Proxy, status};
use byrnie_base::Rng;
use byrnie_codec::h1::parse_request;
use byrnie_codec::{Head, Limits, Parsed, RejectReason};
use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Clients at a time.
const CLIENTS: usize = 16;
/// In how many places a payload is cut at most.
const CUTS_MAX: u64 = 5;

/// Refusals by the label of their reason.
pub(crate) type Reasons = BTreeMap<String, usize>;

/// One payload, marked with its number, and what must come of it.
pub(crate) struct Payload {
    bytes: Vec<u8>,
    /// The points at which it is cut, none if it is sent at once.
    cuts: Vec<usize>,
    /// The requests in it, as a strict server reads them.
    asked: Vec<Asked>,
    pub(crate) verdict: Verdict,
    /// Method and target of the request whose body is refused or missing.
    cut: Option<(String, String)>,
}

/// The bytes with the number in them: in place of its mark, or in the first target and those that hide.
fn numbered(bytes: &[u8], number: usize) -> Vec<u8> {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let text = match text.contains(NUMBER) {
        true => text.replace(NUMBER, &format!("{number:06}")),
        false => text.replacen(" / ", &format!(" /p{number:06} "), 1).replace("/smuggled", &format!("/s{number:07}")),
    };
    text.chars().map(|c| c as u8).collect()
}

impl Payload {
    fn new(number: usize, bytes: &[u8], told: Option<Verdict>) -> Self {
        let bytes = numbered(bytes, number);
        let (seen, wrong, _) = cases::serve(&bytes);
        let read = match wrong {
            Some(reason) => Verdict::Refused(seen.len(), reason),
            None if seen.last().is_none_or(|last| last.keep_alive) => Verdict::Passes(seen.len()),
            None => Verdict::Ends(seen.len()),
        };
        let rest = &bytes[seen.iter().map(|seen| seen.bytes).sum()..];
        let mut head = Head::new();
        let begun =
            wrong.is_some() && matches!(parse_request(rest, &Limits::default(), &mut head), Ok(Parsed::Complete(_)));
        let cut = begun.then(|| (head.method().to_owned(), head.path_and_query().to_owned()));
        let asked =
            seen.into_iter().map(|seen| Asked { method: seen.method, target: seen.path_and_query, body: seen.body });
        Self { asked: asked.collect(), cuts: Vec::new(), verdict: told.unwrap_or(read), cut, bytes }
    }

    /// Cut at random points, which are the same in every run.
    fn cut(mut self, number: usize) -> Self {
        let mut rng = Rng::new(number as u64);
        let count = 1 + rng.below(CUTS_MAX);
        self.cuts = (0..count).map(|_| rng.below(self.bytes.len() as u64) as usize).collect();
        self.cuts.sort_unstable();
        self
    }

    fn refusal(&self) -> Option<RejectReason> {
        match self.verdict {
            Verdict::Refused(_, RejectReason::Truncated) | Verdict::Passes(_) | Verdict::Ends(_) => None,
            Verdict::Refused(_, reason) => Some(reason),
        }
    }

    fn shown(&self) -> String {
        format!("{} cut at {:?}", self.bytes.escape_ascii(), self.cuts)
    }
}

/// One in `step` of all payloads for a server of this name, each of them at once and cut.
pub(crate) fn corpus(host: &str, step: usize) -> Vec<Payload> {
    let spelled = payloads().into_iter().map(|bytes| (replaced(&bytes, host), None));
    let made = crafted(host).into_iter().map(|made| (made.bytes, Some(made.verdict)));
    let all = spelled.step_by(step).chain(made.step_by(step.min(2)));
    let sent = all.flat_map(|(bytes, told)| [(bytes.clone(), told, false), (bytes, told, true)]).enumerate();
    sent.map(|(number, (bytes, told, cut))| {
        let payload = Payload::new(number, &bytes, told);
        if cut { payload.cut(number) } else { payload }
    })
    .collect()
}

/// The same payload for a server of another name.
fn replaced(bytes: &[u8], host: &str) -> Vec<u8> {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    text.replace("Host: a\r\n", &format!("Host: {host}\r\n")).chars().map(|c| c as u8).collect()
}

/// An answer: its status and its body.
type Answer = (u16, String);

/// Sends a payload; what is answered until the connection ends.
fn send(address: SocketAddr, payload: &Payload) -> Vec<Answer> {
    let mut client = Peer::connect(address);
    let mut from = 0;
    for end in payload.cuts.iter().copied().chain([payload.bytes.len()]) {
        // Each piece is a segment of its own, as the connection doesn't wait for more.
        client.send(&payload.bytes[from..end]);
        from = end;
    }
    let (wanted, goes_on) = match payload.verdict {
        Verdict::Passes(requests) | Verdict::Refused(requests, RejectReason::Truncated) => (requests, true),
        Verdict::Ends(requests) | Verdict::Refused(requests, _) => (requests, false),
    };
    let mut answers = Vec::new();
    loop {
        if goes_on && answers.len() == wanted {
            // Whatever else is answered comes before the end.
            let _ = client.stream.shutdown(Shutdown::Write);
        }
        let Some(head) = client.read_head() else { break };
        if (100..200).contains(&status(&head)) {
            continue;
        }
        let bodyless = payload.asked.get(answers.len()).is_some_and(|asked| asked.method == "HEAD");
        let body = if bodyless { Vec::new() } else { client.read_body_of(&head) };
        answers.push((status(&head), String::from_utf8_lossy(&body).into_owned()));
    }
    answers
}

/// Requests that a program refused itself, if it may.
pub(crate) type Refused = Option<Mutex<Vec<Asked>>>;

/// What is wrong with how a payload fared; `None` if nothing. `mute`: what is no HTTP at all is not answered.
fn judge(payload: &Payload, answers: &[Answer], mute: bool, refused: &Refused) -> Option<String> {
    let wrong = |what: &str| Some(format!("{}: {what}: {:?}: {answers:?}", payload.shown(), payload.verdict));
    let Some((own, rest)) = answers.split_at_checked(payload.asked.len()) else { return wrong("an answer is missing") };
    for (asked, (status, body)) in payload.asked.iter().zip(own) {
        let target = if asked.method == "HEAD" { "" } else { &asked.target };
        if let (400.., Some(refused)) = (*status, refused) {
            refused.lock().unwrap().push(asked.clone());
        } else if *status != 200 || body != target {
            return wrong("another answer");
        }
    }
    let silent = mute && matches!(payload.refusal(), Some(RejectReason::RequestLine | RejectReason::Version));
    match (payload.refusal().filter(|_| !silent), rest) {
        (None, []) => None,
        (Some(reason), [(status, body)]) if *status == reason.status() => {
            let told = body.contains(&format!("\"reason\":\"{}\"", reason.label()));
            if told { None } else { wrong("another reason") }
        }
        _ => wrong("more or less than is to be answered"),
    }
}

/// Sends all payloads to `address`, and judges the answers.
pub(crate) fn play(address: SocketAddr, payloads: &[Payload], mute: bool) {
    play_to(address, payloads, mute, &None);
}

/// The same before a program that may refuse what it doesn't know.
pub(crate) fn play_to(address: SocketAddr, payloads: &[Payload], mute: bool, refused: &Refused) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(payload) = payloads.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let answers = send(address, payload);
                    if let Some(wrong) = judge(payload, &answers, mute, refused) {
                        failed.lock().unwrap().push(wrong);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let shown = failed[..failed.len().min(20)].join("\n");
    assert!(failed.is_empty(), "{} of {}:\n{shown}", failed.len(), payloads.len());
}

/// What reached the program must be the requests that are in the payloads, each once, and of those whose bodies were
/// refused or missing at most a part, each once.
pub(crate) fn compare(payloads: &[Payload], reached: &Reached) {
    let mut found: BTreeMap<&Asked, i64> = BTreeMap::new();
    reached.whole.iter().for_each(|asked| *found.entry(asked).or_default() += 1);
    payloads.iter().flat_map(|payload| &payload.asked).for_each(|asked| *found.entry(asked).or_default() -= 1);
    found.retain(|_, count| *count != 0);
    assert!(found.is_empty(), "more (or less, if below 0) than was sent: {found:?}");
    let mut begun: BTreeMap<&(String, String), i64> = BTreeMap::new();
    reached.cut.iter().for_each(|cut| *begun.entry(cut).or_default() += 1);
    payloads.iter().filter_map(|payload| payload.cut.as_ref()).for_each(|cut| *begun.entry(cut).or_default() -= 1);
    begun.retain(|_, count| *count > 0);
    assert!(begun.is_empty(), "begun without need: {begun:?}");
}

/// Refusals by reason that the payloads must come to.
pub(crate) fn expected(payloads: &[Payload]) -> Reasons {
    let mut out = Reasons::new();
    for reason in payloads.iter().filter_map(Payload::refusal) {
        *out.entry(reason.label().to_owned()).or_default() += 1;
    }
    out
}

/// The proxy's own count of refusals, but for reasons that it never saw.
pub(crate) fn counted(proxy: &Proxy) -> Reasons {
    let mut admin = Peer::connect(proxy.ports.admin);
    let (_, text) = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n");
    let lines = text.lines().filter_map(|line| line.strip_prefix("byrnie_rejected_total{reason=\""));
    let counts = lines.map(|line| line.split_once("\"} ").unwrap());
    counts.map(|(reason, count)| (reason.to_owned(), count.parse().unwrap())).filter(|(_, count)| *count > 0).collect()
}
