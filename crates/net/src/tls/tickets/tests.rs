// SPDX-License-Identifier: Apache-2.0
//! Who opens what was sealed, and when. Whole handshakes with it are in `edge` and `callers`.

use super::*;
use crate::tls::edge::Certificate;
use byrnie_base::Text;
use rcgen::{CertificateParams, KeyPair};

/// A session of TLS 1.3 as the library writes it, as far as it's looked at.
const SESSION: &[u8] = b"\x01\x06a.test\x03\x04 and its secret";

fn self_signed(key: &KeyPair, name: &str) -> Certificate {
    let chain = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(key).unwrap().pem();
    Certificate::from_pem(&chain, &key.serialize_pem()).unwrap()
}

fn site(hostname: Option<&str>, certificates: &[&Certificate]) -> Site {
    Site { hostname: hostname.map(Text::from), certificates: certificates.iter().map(|one| (*one).clone()).collect() }
}

fn tickets(sites: &[Site], alpn: &[&str]) -> Tickets {
    let alpn: Vec<_> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Tickets { secret: secret(sites, &alpn), own: Ticketer::new().unwrap() }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(secs * 1000)
}

#[test]
fn a_ticket_ends_with_the_step_after_its_own_and_clocks_may_differ_by_one() {
    let certificate = self_signed(&KeyPair::generate().unwrap(), "a.test");
    let tickets = || tickets(&[site(None, &[&certificate])], &["h2"]);
    let (here, there) = (tickets(), tickets());
    let step = u64::from(STEP_SECS);
    let begin = 100_000 * step;
    for made in [begin, begin + step - 1] {
        let ticket = here.seal(SESSION, at(made)).unwrap();
        assert_ne!(ticket, there.seal(SESSION, at(made)).unwrap(), "no two are the same");
        assert!(!ticket.windows(6).any(|part| part == b"secret" || part == b"a.test"));
        let opened = |now: u64| there.open(&ticket, at(now)).is_some_and(|session| session == SESSION);
        assert!(opened(begin - step) && opened(made) && opened(begin + 2 * step - 1));
        assert!(!opened(begin - step - 1) && !opened(begin + 2 * step));
    }
    assert_eq!(u64::from(here.lifetime()), 2 * step);
}

#[test]
fn on_other_terms_nothing_is_opened() {
    let key = KeyPair::generate().unwrap();
    let (first, renewed) = (self_signed(&key, "a.test"), self_signed(&key, "a.test"));
    let (other, third) = (self_signed(&KeyPair::generate().unwrap(), "a.test"), self_signed(&key, "b.test"));
    let usual = [site(Some("a.test"), &[&first, &other])];
    let ticket = tickets(&usual, &["h2", "http/1.1"]).seal(SESSION, at(0)).unwrap();
    let opens = |sites: &[Site], alpn: &[&str]| tickets(sites, alpn).open(&ticket, at(0)).is_some();
    assert!(opens(&usual, &["h2", "http/1.1"]));
    for (terms, sites) in [
        ("another host", vec![site(Some("b.test"), &[&first, &other])]),
        ("any host", vec![site(None, &[&first, &other])]),
        ("another order", vec![site(Some("a.test"), &[&other, &first])]),
        ("one of them alone", vec![site(Some("a.test"), &[&first])]),
        ("a renewed one", vec![site(Some("a.test"), &[&renewed, &other])]),
        ("one for another name", vec![site(Some("a.test"), &[&third, &other])]),
        ("another site besides", vec![usual[0].clone(), site(Some("b.test"), &[&third])]),
        ("an empty site besides", vec![usual[0].clone(), site(None, &[])]),
        ("each in its own site", vec![site(Some("a.test"), &[&first]), site(Some("a.test"), &[&other])]),
    ] {
        assert!(!opens(&sites, &["h2", "http/1.1"]), "{terms}");
    }
    assert!(!opens(&usual, &["h3"]) && !opens(&usual, &[]) && !opens(&usual, &["http/1.1", "h2"]));
    // Whoever has seen all that is shown, and none of the keys.
    let mut forged = first.clone();
    forged.seed = Seed::of(key.serialize_pem().as_bytes());
    assert!(!opens(&[site(Some("a.test"), &[&forged, &other])], &["h2", "http/1.1"]));
}

#[test]
fn what_is_no_ticket_opens_nothing() {
    let certificate = self_signed(&KeyPair::generate().unwrap(), "a.test");
    let tickets = tickets(&[site(None, &[&certificate])], &[]);
    let ticket = tickets.encrypt(SESSION).unwrap();
    assert_eq!(tickets.decrypt(&ticket).unwrap(), SESSION);
    for place in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[place] ^= 1;
        assert_eq!(tickets.decrypt(&changed), None, "byte {place} changed");
        assert_eq!(tickets.decrypt(&ticket[..place]), None, "cut at {place}");
    }
    let long = [SESSION, &[0; TICKET_BYTES_MAX]].concat();
    assert_eq!(tickets.encrypt(&long), None);
    assert_eq!(tickets.decrypt(&[&ticket[..], &[0; TICKET_BYTES_MAX]].concat()), None);
    for bytes in [&[0; STEP_BYTES][..], &u64::MAX.to_be_bytes(), &[0xff; 64]] {
        assert_eq!(tickets.decrypt(bytes), None);
    }
    // Without a certificate there's nothing secret to make keys of.
    for sites in [vec![], vec![site(None, &[]), site(Some("a.test"), &[])]] {
        assert!(of(&sites, &[]).unwrap().is_none());
    }
    assert_eq!(format!("{tickets:?} {:?}", certificate.seed), "Tickets(..) Seed(..)");
}

#[test]
fn only_sessions_of_tls_1_3_are_sealed_for_others() {
    let certificate = self_signed(&KeyPair::generate().unwrap(), "a.test");
    let tickets = || tickets(&[site(None, &[&certificate])], &[]);
    let (here, there) = (tickets(), tickets());
    for (session, shared) in [
        (&b"\x00\x03\x04 without a host"[..], true),
        (SESSION, true),
        (b"\x01\x06a.test\x03\x03 of TLS 1.2", false),
        (b"\x00\x03\x03 without a host", false),
        // As it would be if the library came to write something else.
        (b"\x02\x06a.test\x03\x04", false),
        (b"\x01\xffa.test\x03\x04", false),
        (b"\x00\x03", false),
        (b"", false),
    ] {
        let ticket = here.encrypt(session).unwrap();
        assert_eq!(here.decrypt(&ticket).unwrap(), session);
        assert_eq!(there.decrypt(&ticket).is_some(), shared, "{session:?}");
    }
}
