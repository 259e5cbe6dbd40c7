// SPDX-License-Identifier: Apache-2.0
//! A reader of HTTP/1.1 requests that knows nothing of the proxy's own parser, and takes nothing but what RFC 9112
//! wants senders to write. What a proxy has sent is judged by it, byte by byte.

/// A request, whole.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    pub(crate) head_bytes: usize,
    pub(crate) bytes: usize,
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It isn't whole; its head is this much, once that is.
    Partial(Option<(String, String)>),
    Malformed(&'static str),
}

type Read<T> = Result<T, Stop>;

fn must(holds: bool, what: &'static str) -> Read<()> {
    if holds { Ok(()) } else { Err(Stop::Malformed(what)) }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// The line at the start of `bytes`, without its end.
fn line(bytes: &[u8]) -> Read<&[u8]> {
    match bytes.iter().position(|b| matches!(b, b'\r' | b'\n')) {
        Some(at) if bytes[at..].starts_with(b"\r\n") => Ok(&bytes[..at]),
        Some(at) if &bytes[at..] != b"\r" => Err(Stop::Malformed("a bare CR or LF")),
        _ => Err(Stop::Partial(None)),
    }
}

/// Names in lower case, and values.
type Lines = Vec<(String, Vec<u8>)>;

/// Header or trailer lines up to and with the empty one, and how many bytes they are.
fn section(bytes: &[u8]) -> Read<(Lines, usize)> {
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        let text = line(&bytes[at..])?;
        at += text.len() + 2;
        if text.is_empty() {
            return Ok((lines, at));
        }
        let colon = text.iter().position(|b| *b == b':').ok_or(Stop::Malformed("a line without a colon"))?;
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        must(is_token(name), "a name that is no token")?;
        must(value.iter().all(|b| *b == b'\t' || *b >= b' ' && *b != 0x7f), "a control byte in a value")?;
        lines.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

fn values<'a>(lines: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    lines.iter().filter(|(found, _)| found == name).map(|(_, value)| &value[..]).collect()
}

/// The request at the start of `bytes`, and how many bytes it is.
pub(crate) fn read(bytes: &[u8]) -> Read<(Message, usize)> {
    let first = line(bytes)?;
    let words: Vec<&[u8]> = first.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words[..] else { return Err(Stop::Malformed("no request line")) };
    must(is_token(method), "a method that is no token")?;
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    // A backslash, which some take for a slash, has no meaning in a query.
    let visible = target.iter().all(|b| (b'!'..=b'~').contains(b) && !b"#\"<>".contains(b)) && !path.contains(&b'\\');
    must(visible && (target.starts_with(b"/") || target == b"*"), "a target that is no path")?;
    let (lines, length) = section(&bytes[first.len() + 2..])?;
    let head_bytes = first.len() + 2 + length;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (method, target) = (text(method), text(target));
    must(values(&lines, "host").len() == 1, "not one host")?;
    let begun = (method.clone(), target.clone());
    let (body, length) = body(&lines, &bytes[head_bytes..]).map_err(|stop| match stop {
        Stop::Partial(_) => Stop::Partial(Some(begun)),
        other => other,
    })?;
    let bytes = head_bytes + length;
    Ok((Message { method, target, body, head_bytes, bytes }, bytes))
}

fn body(lines: &[(String, Vec<u8>)], bytes: &[u8]) -> Read<(Vec<u8>, usize)> {
    match (&values(lines, "content-length")[..], &values(lines, "transfer-encoding")[..]) {
        ([], []) => Ok((Vec::new(), 0)),
        ([length], []) => {
            let plain = length.iter().all(u8::is_ascii_digit) && (*length == b"0" || !length.starts_with(b"0"));
            must(plain, "a length that is no plain number")?;
            let length: usize =
                std::str::from_utf8(length).unwrap().parse().map_err(|_| Stop::Malformed("a length"))?;
            if bytes.len() < length { Err(Stop::Partial(None)) } else { Ok((bytes[..length].to_vec(), length)) }
        }
        ([], [b"chunked"]) => chunks(bytes),
        _ => Err(Stop::Malformed("more than one framing")),
    }
}

fn chunks(bytes: &[u8]) -> Read<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let digits = line(&bytes[at..])?;
        let plain = digits == b"0" || !digits.starts_with(b"0") && digits.iter().all(u8::is_ascii_hexdigit);
        must(plain && (1..=8).contains(&digits.len()), "a chunk size that is no plain number")?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        at += digits.len() + 2;
        if size == 0 {
            let (trailers, length) = section(&bytes[at..])?;
            let framing = ["content-length", "transfer-encoding", "host", "connection", "trailer", "authorization"];
            must(trailers.iter().all(|(name, _)| !framing.contains(&name.as_str())), "a trailer that is a header")?;
            return Ok((body, at + length));
        }
        let chunk = bytes.get(at..at + size).ok_or(Stop::Partial(None))?;
        body.extend_from_slice(chunk);
        at += size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Err(Stop::Malformed("a chunk that doesn't end in CRLF")),
            None => return Err(Stop::Partial(None)),
        }
    }
}

/// Whole requests, and the method and target of one that was begun and cut.
type Requests = (Vec<Message>, Option<(String, String)>);

/// What a connection's bytes are.
pub(crate) fn read_all(mut bytes: &[u8]) -> Result<Requests, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        match read(bytes) {
            Ok((message, length)) => {
                messages.push(message);
                bytes = &bytes[length..];
            }
            Err(Stop::Partial(Some(begun))) => return Ok((messages, Some(begun))),
            Err(Stop::Partial(None)) => return Err(format!("half a head: {}", bytes.escape_ascii())),
            Err(Stop::Malformed(what)) => return Err(format!("{what}: {}", bytes.escape_ascii())),
        }
    }
    Ok((messages, None))
}

#[test]
fn what_no_sender_should_write_is_malformed() {
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 01\r\n\r\nZ",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nZ",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
        &format!("{chunked}1;x\r\nZ\r\n0\r\n\r\n"),
        &format!("{chunked}01\r\nZ\r\n0\r\n\r\n"),
        &format!("{chunked}1\r\nZZ\r\n0\r\n\r\n"),
        &format!("{chunked}1\r\nZ\n0\r\n\r\n"),
        &format!("{chunked}0\r\ncontent-length: 1\r\n\r\n"),
        &format!("{chunked}0\r\n\r\nZ"),
        "GET /",
    ] {
        assert!(read_all(bad.as_bytes()).is_err(), "{bad:?}");
    }
    let good =
        format!("{chunked}1\r\nZ\r\na\r\n0123456789\r\n0\r\nx: y\r\n\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n{chunked}1");
    let (messages, cut) = read_all(good.as_bytes()).unwrap();
    let bodies: Vec<&[u8]> = messages.iter().map(|message| &message.body[..]).collect();
    assert_eq!((&bodies[..], cut), (&[&b"Z0123456789"[..], b""][..], Some(("POST".into(), "/".into()))));
}
