// SPDX-License-Identifier: Apache-2.0
//! Which answers are compressed on their way, and what their heads say then. Decided at the callee's proxy, where a policy asks
//! for it: there the work is spread over the instances as the requests are, what goes between proxies is the less, and whatever
//! proxy comes behind finds an answer that has its coding and leaves it alone.
//!
//! The rules are those of RFC 9110 (8.4, 8.8.3.3, 12.5.3, 12.5.5, 15.3.7) and RFC 9111 (5.2.2.6), as nginx and Envoy follow them.

use crate::exchange::Exchange;
use crate::shard::Shard;
use byrnie_base::Text;
use byrnie_codec::{Framing, Head, Known};
use byrnie_model::policy::traffic::Compression;
use std::sync::Arc;

/// Answers that one core compresses at once; what comes beside them goes as it is, so that their memory is bounded.
pub(crate) const CODERS_MAX: usize = 128;

/// Media types that are compressed unless a policy names others, with all whose names end with `+json` or `+xml`. Pictures,
/// films and archives are compressed already.
const KINDS: [&str; 6] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/x-javascript",
    "application/wasm",
];

/// A core's places for answers that are being compressed; who has one holds a share of it.
#[derive(Debug, Default)]
pub(crate) struct Coders(Arc<()>);

impl Coders {
    fn place(&self) -> Option<Arc<()>> {
        (Arc::strong_count(&self.0) <= CODERS_MAX).then(|| Arc::clone(&self.0))
    }
}

/// What a policy says of the answers of a service.
#[derive(Debug)]
pub(crate) struct Compress {
    pub(crate) policy: Compression,
    /// The policy's own name, as `NAMESPACE/NAME`.
    pub(crate) rule: Text,
}

/// How the answer to a request may come.
#[derive(Debug, Default)]
pub(crate) enum Coding {
    /// As it is.
    #[default]
    Plain,
    /// Compressed, if it is such an answer.
    Taken,
    /// Compressed, by this place until it's over.
    Given { _place: Arc<()> },
}

impl Exchange {
    /// Whether the body of the answer is to be compressed on its way, as its head says since [`Exchange::on_response`].
    pub fn compresses(&self) -> bool {
        matches!(&self.aside, Some(aside) if matches!(aside.coding, Coding::Given { .. }))
    }

    /// Takes note of how the request takes its answer.
    pub(crate) fn note_coding(&mut self, head: &Head) {
        if !self.is_grpc() && head.upgrade().is_none() && takes_gzip(head) && may_transform(head) {
            self.aside().coding = Coding::Taken;
        }
    }

    /// Has an answer compressed, if the policy, the caller and the answer itself allow it and there is room.
    pub(crate) fn code(&mut self, shard: &Shard, head: &mut Head) {
        let Some(compress) = self.service.as_ref().and_then(|tree| tree.compress.as_ref()) else { return };
        if self.is_grpc() || !suits(&compress.policy, head) || vary(head).is_none() {
            return;
        }
        let asks_for_head = self.is_head();
        let Some(aside) = self.aside.as_mut().filter(|aside| matches!(aside.coding, Coding::Taken)) else { return };
        let Some(place) = shard.lines.coders.place().filter(|_| !shard.overload.strain.saves()) else { return };
        if mark(head).is_some() && !asks_for_head {
            aside.coding = Coding::Given { _place: place };
        }
    }
}

/// Whether a request takes its answer as gzip, and not rather as it is.
pub(crate) fn takes_gzip(head: &Head) -> bool {
    let (mut gzip, mut any, mut plain) = (None, None, None);
    for line in head.values(Known::AcceptEncoding.name()) {
        for part in line.split(|b| *b == b',') {
            let mut words = part.split(|b| *b == b';').map(<[u8]>::trim_ascii);
            let name = words.next().unwrap_or_default();
            let quality = Some(words.find_map(quality).unwrap_or(1000));
            match name {
                b"*" => any = quality,
                _ if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") => gzip = quality,
                _ if name.eq_ignore_ascii_case(b"identity") => plain = quality,
                _ => {}
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && plain.unwrap_or(0) <= gzip
}

/// The weight that a parameter says, in thousandths; one that can't be read says that it isn't wanted.
fn quality(parameter: &[u8]) -> Option<u16> {
    let digits = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let (whole, part) = match digits {
        [whole, b'.', part @ ..] if part.len() <= 3 => (*whole, part),
        [whole] => (*whole, &[][..]),
        _ => return Some(0),
    };
    if !part.iter().all(u8::is_ascii_digit) {
        return Some(0);
    }
    let thousandths = (0..3).fold(0, |sum, at| sum * 10 + part.get(at).map_or(0, |digit| u16::from(digit - b'0')));
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => Some(0),
    }
}

/// Whether nobody has asked for the body to be left as it is.
fn may_transform(head: &Head) -> bool {
    let mut words = head.values(Known::CacheControl.name()).flat_map(|line| line.split(|b| *b == b','));
    !words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Whether it is an answer that a policy has compressed, for who takes it so.
pub(crate) fn suits(policy: &Compression, head: &Head) -> bool {
    let status = head.status();
    // What has no body, and a part of one, whose place in the whole is counted in its own bytes.
    if status < 200 || matches!(status, 204 | 205 | 206 | 304) {
        return false;
    }
    let known = match head.framing() {
        Framing::Length(length) => Some(length),
        _ => head.declared_length(),
    };
    if known.is_some_and(|length| length < u64::from(policy.bytes_min).max(1)) {
        return false;
    }
    if head.header(Known::ContentEncoding).is_some() || head.header(Known::ContentRange).is_some() {
        return false;
    }
    // Said of the bytes as they are (RFC 9530).
    let digests = ["content-digest", "repr-digest", "digest", "content-md5"];
    head.header(Known::ContentType).is_some_and(|kind| is_kind(policy, kind))
        && may_transform(head)
        && !digests.iter().any(|name| head.get(name).is_some())
}

fn is_kind(policy: &Compression, said: &[u8]) -> bool {
    let kind = said.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let begins = |with: &[u8]| kind.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    let ends = |with: &[u8]| kind.len() > with.len() && kind[kind.len() - with.len()..].eq_ignore_ascii_case(with);
    let fits = |wanted: &str| match wanted.strip_suffix('*') {
        Some(group) => begins(group.as_bytes()),
        None => kind.eq_ignore_ascii_case(wanted.as_bytes()),
    };
    // gRPC has a coding of its own for each message.
    if begins(b"application/grpc") {
        return false;
    }
    if policy.kinds.is_empty() {
        return KINDS.into_iter().any(fits) || ends(b"+json") || ends(b"+xml");
    }
    policy.kinds.iter().any(|wanted| fits(wanted))
}

/// Says that the answer depends on what the request takes; `None` if the head has no room for it.
fn vary(head: &mut Head) -> Option<()> {
    let says = |word: &[u8]| word == b"*" || word.eq_ignore_ascii_case(Known::AcceptEncoding.name().as_bytes());
    let said =
        head.values(Known::Vary.name()).any(|line| line.split(|b| *b == b',').any(|word| says(word.trim_ascii())));
    if said {
        return Some(());
    }
    head.append_known(Known::Vary, Known::AcceptEncoding.name().as_bytes()).ok()
}

/// Says that the answer comes compressed; `None` if the head has no room for it.
fn mark(head: &mut Head) -> Option<()> {
    head.append_known(Known::ContentEncoding, b"gzip").ok()?;
    // The bytes aren't the same any more, and parts of them are never asked for.
    if let Some(tag) = head.get("etag").filter(|tag| tag.starts_with(b"\"")) {
        let weak = [b"W/", tag].concat();
        if head.set("etag", &weak).is_err() {
            head.remove("etag");
        }
    }
    head.remove("accept-ranges");
    head.set_declared_length(None);
    if head.framing() == Framing::UntilClose {
        // The connection that it came by still ends with it.
        head.set_keep_alive(false);
    }
    if head.framing() != Framing::None {
        head.set_framing(Framing::Chunked);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Effect;
    use crate::fixtures::{World, head, identity, mesh, ms, own_workload, response, service, traffic};
    use byrnie_model::Protocol;
    use byrnie_model::policy::TrafficPolicy;
    use byrnie_model::resource::DefaultAccess;

    fn policy() -> Compression {
        Compression { bytes_min: 100, kinds: Vec::new() }
    }

    #[test]
    fn a_request_says_what_it_takes() {
        for (said, takes) in [
            ("gzip", true),
            ("GZip", true),
            ("x-gzip", true),
            ("br, gzip;q=0.8, *;q=0.1", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("*", true),
            ("*;q=0", false),
            ("identity;q=0, *;q=0", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("gzip;q=0.001", true),
            ("gzip;q=0, *", false),
            ("identity;q=0, gzip", true),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip;q=0.5", true),
            ("identity;q=0.5, gzip ; q=0.9", true),
            ("br, zstd, deflate", false),
            ("gzip;q=2", false),
            ("gzip;q=1.001", false),
            ("gzip;q=0.0001", false),
            ("gzip;q=-1", false),
            ("gzip;q=", false),
            ("gzip;q=nonsense", false),
            ("", false),
            (",;,", false),
            ("gzipped", false),
        ] {
            assert_eq!(takes_gzip(&head("GET", "h/", &[("accept-encoding", said)])), takes, "{said}");
        }
        assert!(!takes_gzip(&head("GET", "h/", &[])));
        assert!(takes_gzip(&head("GET", "h/", &[("accept-encoding", "br"), ("accept-encoding", "gzip")])));
    }

    #[test]
    fn an_answer_is_compressed_only_if_that_is_safe_and_of_use() {
        let own = Compression { bytes_min: 0, kinds: vec!["image/*".into(), "application/x-own".into()] };
        let json = ("content-type", "application/json");
        for (policy, status, lines, expected) in [
            (policy(), 200, vec![json, ("content-length", "100")], true),
            (policy(), 200, vec![json, ("content-length", "99")], false),
            (policy(), 404, vec![json, ("content-length", "100")], true),
            (policy(), 206, vec![json, ("content-length", "100")], false),
            (policy(), 205, vec![json, ("content-length", "100")], false),
            (policy(), 204, vec![json], false),
            (policy(), 304, vec![json], false),
            (policy(), 101, vec![json], false),
            (policy(), 200, vec![json, ("content-length", "100"), ("content-encoding", "br")], false),
            (policy(), 200, vec![json, ("content-length", "100"), ("content-range", "bytes 0-99/200")], false),
            (policy(), 200, vec![json, ("content-length", "100"), ("cache-control", "max-age=1, No-Transform")], false),
            (policy(), 200, vec![json, ("content-length", "100"), ("repr-digest", "sha-256=:AA==:")], false),
            (policy(), 200, vec![("content-length", "100")], false),
            (policy(), 200, vec![("content-type", "Text/HTML; charset=utf-8"), ("content-length", "100")], true),
            (policy(), 200, vec![("content-type", "image/svg+xml"), ("content-length", "100")], true),
            (policy(), 200, vec![("content-type", "application/problem+json"), ("content-length", "100")], true),
            (policy(), 200, vec![("content-type", "image/png"), ("content-length", "100")], false),
            (policy(), 200, vec![("content-type", "application/grpc-web+json"), ("content-length", "100")], false),
            (own.clone(), 200, vec![("content-type", "image/png"), ("content-length", "1")], true),
            (own.clone(), 200, vec![("content-type", "application/x-own"), ("content-length", "1")], true),
            (own.clone(), 200, vec![("content-type", "application/x-own"), ("content-length", "0")], false),
            (own, 200, vec![json, ("content-length", "100")], false),
        ] {
            assert_eq!(suits(&policy, &response(status, &lines)), expected, "{status} {lines:?}");
        }
    }

    /// The callee: `web` serves itself, and its answers are compressed.
    fn callee() -> World {
        let mut world = World::new(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()]);
        let compression = Some(policy());
        assert_eq!(world.put(vec![traffic("web", TrafficPolicy { compression, ..TrafficPolicy::default() })]), []);
        world
    }

    fn begin(world: &mut World, method: &str, lines: &[(&str, &str)]) -> Exchange {
        let (exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut head(method, "web/", lines), ms(0));
        assert!(matches!(effect, Effect::Send(_)), "{effect:?}");
        exchange
    }

    const GZIP: (&str, &str) = ("accept-encoding", "gzip");
    const PAGE: [(&str, &str); 4] =
        [("content-type", "text/html"), ("content-length", "5000"), ("etag", "\"v1\""), ("accept-ranges", "bytes")];

    #[test]
    fn the_head_of_an_answer_says_how_it_comes() {
        let mut world = callee();
        for (method, lines, coded, told) in [
            ("GET", vec![GZIP], true, true),
            ("HEAD", vec![GZIP], false, true),
            ("GET", vec![], false, false),
            ("GET", vec![GZIP, ("cache-control", "no-transform")], false, false),
            ("POST", vec![GZIP, ("content-type", "application/grpc")], false, false),
        ] {
            let mut exchange = begin(&mut world, method, &lines);
            let mut page = response(200, &PAGE);
            if method == "HEAD" {
                page.set_declared_length(Some(5000));
                page.set_framing(Framing::None);
            }
            assert!(matches!(exchange.on_response(&mut world.shard, &mut page, ms(1)), Effect::Forward));
            assert_eq!(exchange.compresses(), coded, "{method} {lines:?}");
            assert_eq!(page.get("content-encoding").is_some(), told, "{method} {lines:?}");
            assert_eq!(page.get("etag"), Some(if told { &b"W/\"v1\""[..] } else { b"\"v1\"" }));
            assert_eq!(page.get("accept-ranges").is_none(), told);
            let framing = match (method, told) {
                ("HEAD", _) => Framing::None,
                (_, true) => Framing::Chunked,
                _ => Framing::Length(5000),
            };
            assert_eq!((page.framing(), page.declared_length()), (framing, None), "{method} {lines:?}");
            // Caches are told even where this caller gets it as it is.
            let grpc = lines.iter().any(|(_, value)| value.ends_with("grpc"));
            assert_eq!(page.get("vary"), if grpc { None } else { Some(&b"accept-encoding"[..]) });
        }
        let mut exchange = begin(&mut world, "GET", &[GZIP]);
        let mut weak = response(200, &[PAGE[0], PAGE[1], ("etag", "W/\"v1\""), ("vary", "Origin, Accept-Encoding")]);
        exchange.on_response(&mut world.shard, &mut weak, ms(1));
        assert_eq!((weak.get("etag"), weak.values("vary").count()), (Some(&b"W/\"v1\""[..]), 1));
        // What ends with its connection leaves none behind to be used again.
        let mut exchange = begin(&mut world, "GET", &[GZIP]);
        let mut endless = response(200, &PAGE[..1]);
        endless.set_framing(Framing::UntilClose);
        exchange.on_response(&mut world.shard, &mut endless, ms(1));
        assert_eq!((exchange.compresses(), endless.framing(), endless.keep_alive()), (true, Framing::Chunked, false));
    }

    #[test]
    fn a_core_compresses_so_many_answers_at_once_and_no_more() {
        let mut world = callee();
        let ask = |world: &mut World| {
            let mut exchange = begin(world, "GET", &[GZIP]);
            exchange.on_response(&mut world.shard, &mut response(200, &PAGE), ms(1));
            exchange
        };
        let mut held: Vec<Exchange> = (0..CODERS_MAX).map(|_| ask(&mut world)).collect();
        assert!(held.iter().all(Exchange::compresses));
        let beyond = ask(&mut world);
        assert!(!beyond.compresses());
        held.pop();
        assert!(ask(&mut world).compresses(), "one that has ended makes room");
    }
}
