// SPDX-License-Identifier: Apache-2.0
//! Requests that hide another one. Some thousand payloads are made from the known ways to frame a
//! message twice. Whatever is accepted must look the same to every lenient server of a large family,
//! both as it came (someone may stand before us) and as it is forwarded.

use byrnie_codec::h1::{emit_request, parse_request};
use byrnie_codec::headers::{Sender, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::{Head, Limits, Parsed};

use crate::cases;
use crate::crafted::{Crafted, Verdict, crafted};
use crate::payloads::{Reading, family, payloads};

#[test]
fn nothing_ambiguous_is_accepted_or_forwarded() {
    let payloads = payloads();
    assert!(payloads.len() >= 2000, "{}", payloads.len());
    let (mut accepted, mut refused) = (0, std::collections::BTreeMap::new());
    for payload in &payloads {
        let mut head = Head::new();
        let used = match parse_request(payload, &Limits::default(), &mut head) {
            Ok(Parsed::Complete(used)) => used,
            Ok(Parsed::Partial) => panic!("waits for more: {}", payload.escape_ascii()),
            Err(reject) => {
                *refused.entry(reject.reason.label()).or_insert(0) += 1;
                continue;
            }
        };
        accepted += 1;
        // As it came. Underscores are the forwarder's to care for: they hide nothing from who stands before us.
        let raw = &payload[..used];
        let mut family_reads = family().filter(|s| !s.underscores).map(|server| server.reads(raw));
        let first = family_reads.next().unwrap();
        assert!(first != Reading::Both, "{}", raw.escape_ascii());
        assert!(family_reads.all(|other| other == first), "{}", raw.escape_ascii());
        // As it is forwarded.
        strip_untrusted(&mut head, Sender::Outside);
        strip_hop_by_hop(&mut head);
        let mut out = Vec::new();
        emit_request(&head, &mut out);
        let mut family_reads = family().map(|server| server.reads(&out));
        let first = family_reads.next().unwrap();
        assert!(first != Reading::Both, "{}", out.escape_ascii());
        assert!(family_reads.all(|other| other == first), "{}", out.escape_ascii());
    }
    println!("{} payloads, {accepted} accepted, refused: {refused:?}", payloads.len());
    assert!(accepted > 0 && refused.len() >= 6);
}

/// What is made by hand against one rule is refused for that rule, and the request behind it counts only where
/// everybody sees it begin.
#[test]
fn every_rule_refuses_what_breaks_it() {
    let crafted = crafted("a");
    assert!(crafted.len() >= 900, "{}", crafted.len());
    let (mut reasons, mut differing) = (std::collections::BTreeMap::new(), Vec::new());
    for Crafted { bytes, verdict } in &crafted {
        let (seen, wrong, _) = cases::serve(bytes);
        let goes_on = seen.last().is_none_or(|last| last.keep_alive);
        let found = match wrong {
            Some(reason) => Verdict::Refused(seen.len(), reason),
            None if goes_on => Verdict::Passes(seen.len()),
            None => Verdict::Ends(seen.len()),
        };
        if found != *verdict {
            differing.push(format!("{}: {found:?}, not {verdict:?}", bytes.escape_ascii()));
        }
        if let Some(reason) = wrong {
            *reasons.entry(reason.label()).or_insert(0) += 1;
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    println!("{} payloads made by hand, refused: {reasons:?}", crafted.len());
    assert!(reasons.len() >= 22, "{reasons:?}");
}
