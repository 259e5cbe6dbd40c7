// SPDX-License-Identifier: Apache-2.0
//! What a branch of a dtm transaction calls: by URL, or by gRPC as `HOST[:PORT]/PACKAGE.SERVICE/METHOD`. A host that is
//! an address of this machine is called directly, any other is a service of the mesh.

use super::super::problem::Problem;
use super::super::{Caller, unary};
use byrnie_saga::transaction::{BODY_BYTES_MAX, GRPC};
use byrnie_saga::{Call, Target};

/// What a call is told about itself, in its query or in its metadata.
pub(super) struct Of<'a> {
    pub(super) gid: &'a str,
    pub(super) kind: &'a str,
    pub(super) branch: &'a str,
    pub(super) op: &'a str,
    /// The client came by gRPC: the payload is in base64, and what is no URL is a method.
    pub(super) grpc: bool,
}

/// A call of a branch; none for an empty URL.
pub(super) fn call(url: &str, payload: &str, of: &Of<'_>, caller: &Caller) -> Result<Option<Call>, Problem> {
    if url.is_empty() {
        return Ok(None);
    }
    let by_http = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    match (of.grpc, by_http) {
        (false, _) => by_url(url, payload, of, caller),
        (true, true) => {
            let text = String::from_utf8(unary::bytes(payload)).map_err(|_| {
                Problem::malformed(format!("{url}: a payload for HTTP is text, and this one is not UTF-8"))
            })?;
            by_url(url, &text, of, caller)
        }
        (true, false) => by_method(url, payload, of, caller),
    }
    .map(Some)
}

/// A call by URL: POST with a payload, GET without.
fn by_url(url: &str, payload: &str, of: &Of<'_>, caller: &Caller) -> Result<Call, Problem> {
    let bad = || Problem::malformed(format!("{url:?} is not http://HOST/PATH"));
    let rest = url.strip_prefix("http://").ok_or_else(bad)?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    if authority.is_empty() || !is_clean(authority) || !is_clean(path) || payload.len() > BODY_BYTES_MAX {
        return Err(bad());
    }
    let (authority, raw) = place(authority, caller);
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let Of { gid, kind, branch, op, .. } = of;
    let path = format!("{path}{joint}gid={gid}&trans_type={kind}&branch_id={branch}&op={op}");
    let method = if payload.is_empty() { "GET" } else { "POST" };
    Ok(Call {
        target: Target { method: method.into(), authority: authority.into(), path: path.into(), raw },
        // An undo without a body would be told the action's; a GET has none.
        body: Some(payload.into()),
        kind: "application/json".into(),
        headers: Vec::new(),
        late: None,
    })
}

/// A unary call of gRPC, whose message is the payload as it is.
fn by_method(url: &str, payload: &str, of: &Of<'_>, caller: &Caller) -> Result<Call, Problem> {
    let bad = || Problem::malformed(format!("{url:?} is not HOST[:PORT]/PACKAGE.SERVICE/METHOD"));
    let (authority, path) = method(url).ok_or_else(bad)?;
    let (authority, raw) = place(authority, caller);
    let told = [("dtm-gid", of.gid), ("dtm-trans_type", of.kind), ("dtm-branch_id", of.branch), ("dtm-op", of.op)];
    Ok(Call {
        target: Target { method: "POST".into(), authority: authority.into(), path: path.into(), raw },
        body: Some(payload.into()),
        kind: GRPC.into(),
        headers: told.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        late: None,
    })
}

/// Authority and path of a method. A URL such as `discovery:///NAME/PACKAGE.SERVICE/METHOD` names a service in a registry
/// that the mesh stands for: what comes before the name isn't looked at.
fn method(url: &str) -> Option<(&str, &str)> {
    let named = url.split_once("://").map_or(url, |(_, named)| named);
    let mut ends = named.rmatch_indices('/');
    let (last, second) = (ends.next()?.0, ends.next()?.0);
    let (place, path) = named.split_at(second);
    let authority = place.rsplit('/').next()?;
    let whole = second + 1 < last && last + 1 < named.len();
    // Without a scheme nothing comes before the name.
    let alone = url.contains("://") || authority.len() == place.len();
    let clean = is_clean(named) && !path.contains(['?', '%']);
    (whole && alone && clean && !authority.is_empty()).then_some((authority, path))
}

fn is_clean(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['@', '#', '\\'])
}

/// The authority as the mesh has it, and whether it is an address instead of a service.
fn place(authority: &str, caller: &Caller) -> (String, bool) {
    let (host, port) = authority
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or((authority, None), |(h, p)| (h, Some(p)));
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
        return (authority.to_owned(), true);
    }
    let name = [".mesh.localhost", ".mesh", ".svc.cluster.local", ".svc"]
        .iter()
        .find_map(|end| host.strip_suffix(end))
        .unwrap_or(host);
    let (name, namespace) = name.split_once('.').unwrap_or((name, caller.namespace()));
    (port.map_or_else(|| format!("{name}.{namespace}"), |port| format!("{name}.{namespace}:{port}")), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_model::Identity;

    fn read(url: &str) -> Result<(String, String, bool), String> {
        let caller = Caller::Workload(Identity::parse("spiffe://mesh.local/ns/shop/sa/web").unwrap());
        let of = Of { gid: "g", kind: "saga", branch: "01", op: "action", grpc: true };
        let made = call(url, &unary::text(&[0, 255]), &of, &caller).map_err(|problem| problem.detail)?.unwrap();
        assert!(made.is_grpc() && made.headers.contains(&("dtm-branch_id".into(), "01".into())));
        let Target { authority, path, raw, .. } = made.target;
        Ok((authority.to_string(), path.to_string(), raw))
    }

    #[test]
    fn no_target_panics() {
        let pieces =
            ["a", "é", "/", "//", "://", "http://", ":", "80", "[", "]", "@", "%", "?", ".", ".mesh", "\0", " "];
        let mut dice = byrnie_base::Rng::new(11);
        for _ in 0..20_000 {
            let count = dice.next_u64() % 8;
            let url: String = (0..count).filter_map(|_| pieces.get((dice.next_u64() % 17) as usize)).copied().collect();
            for grpc in [true, false] {
                let of = Of { gid: "g", kind: "tcc", branch: "01", op: "confirm", grpc };
                if let Ok(Some(call)) = call(&url, "", &of, &Caller::Operator) {
                    let said = format!("{}{}", call.target.authority, call.target.path);
                    assert!(
                        said.bytes().all(|b| b.is_ascii_graphic()) && call.target.path.starts_with('/'),
                        "{url:?} {said:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_url_is_called_by_http_from_either_side() {
        let caller = Caller::Operator;
        let of = |grpc| Of { gid: "g", kind: "msg", branch: "01", op: "action", grpc };
        let by_grpc = call("http://mail/send", &unary::text(b"{}"), &of(true), &caller).unwrap().unwrap();
        let by_http = call("http://mail/send", "{}", &of(false), &caller).unwrap().unwrap();
        assert_eq!(by_grpc, by_http);
        assert_eq!(&*by_http.target.path, "/send?gid=g&trans_type=msg&branch_id=01&op=action");
        assert!(call("http://mail/send", &unary::text(&[255]), &of(true), &caller).is_err());
        // What only gRPC means isn't taken from the other side, and an empty URL calls nothing.
        assert!(call("mail/a.B/C", "{}", &of(false), &caller).is_err());
        assert_eq!(call("", "", &of(true), &caller).unwrap(), None);
    }

    #[test]
    fn methods_are_found_by_host_and_by_the_names_of_registries() {
        let good = |url: &str, authority: &str, raw: bool| {
            assert_eq!(read(url), Ok((authority.to_owned(), "/busi.Busi/TransIn".to_owned(), raw)), "{url}");
        };
        good("payments/busi.Busi/TransIn", "payments.shop", false);
        good("payments:81/busi.Busi/TransIn", "payments.shop:81", false);
        good("payments.till.mesh:81/busi.Busi/TransIn", "payments.till:81", false);
        good("127.0.0.1:58081/busi.Busi/TransIn", "127.0.0.1:58081", true);
        good("[::1]:58081/busi.Busi/TransIn", "[::1]:58081", true);
        good("discovery:///payments/busi.Busi/TransIn", "payments.shop", false);
        good("etcd://localhost:2379/payments.till/busi.Busi/TransIn", "payments.till", false);
        good("dns:///payments:81/busi.Busi/TransIn", "payments.shop:81", false);
        for bad in [
            "/",
            "//",
            "///",
            "payments",
            "payments/busi.Busi",
            "payments//TransIn",
            "payments/busi.Busi/",
            "/busi.Busi/TransIn",
            "a/payments/busi.Busi/TransIn",
            "payments/busi.Busi/Trans In",
            "payments/busi.Busi/TransIn?x=1",
            "me@payments/busi.Busi/TransIn",
            "payments/busi.Busi/%2e",
            "discovery://",
            "://a/b",
            "https://payments/busi.Busi/TransIn",
        ] {
            assert!(read(bad).is_err(), "{bad}: {:?}", read(bad));
        }
    }
}
