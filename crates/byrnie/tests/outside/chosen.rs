// SPDX-License-Identifier: Apache-2.0
//! Which of a service's addresses is asked: by places with shares, and by the session that a caller has.

use super::{Host, legacy, plain};
use crate::mesh::{Answer, Mesh, file, free_port, until};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The addresses of `legacy` by region, whose calls are shared out among two of these: by their last numbers.
const REGIONS: [(&str, &[u8]); 3] = [("eu", &[1, 2, 3]), ("us", &[4]), ("ap", &[5])];

fn in_regions(port: u16) -> String {
    let slice = |(region, numbers): (&str, &[u8])| {
        let endpoints: Vec<_> = numbers.iter().map(|n| format!("{{addresses: [127.0.0.{n}], zone: a}}")).collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: legacy-{region}\n  labels: \
             {{kubernetes.io/service-name: legacy, topology.kubernetes.io/region: {region}}}\naddressType: IPv4\n\
             ports: [{{name: web, port: {port}}}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    let slices: String = REGIONS.into_iter().map(slice).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: legacy}}\nspec: {{ports: [{{name: web, port: 80}}]}}\n\
         ---\napiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: legacy}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: legacy}}]\n  \
         failover: {{distribute: [{{from: \"*\", to: {{eu: 70%, us/a: 30%}}}}]}}\n{slices}"
    )
}

#[test]
fn calls_are_shared_out_among_places_by_name_and_one_that_is_lost_leaves_its_share_to_the_others() {
    let mesh = Mesh::up(&[]);
    let port = free_port();
    let [_eu, us, _ap] =
        REGIONS.map(|(_, numbers)| numbers.iter().map(|n| plain(&format!("127.0.0.{n}"), port)).collect::<Vec<_>>());
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &in_regions(port))]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    let shown = mesh.ok(&["get", "trafficpolicy", "legacy", "-o", "yaml"]);
    assert!(shown.contains("us/a: \"30%\""), "{shown}");
    let why = mesh.ok(&["explain", "GET http://legacy.mesh.localhost/", "--from", "edge"]);
    for words in ["in eu, which gets 70%", "in us/a, which gets 30%", "farther away"] {
        assert!(why.contains(words), "{words} in {why}");
    }
    let region = |answer: &Answer| {
        let number = answer.body.rsplit('.').next().and_then(|n| n.parse().ok());
        REGIONS.iter().find(|(_, numbers)| number.is_some_and(|n| numbers.contains(&n))).map(|(region, _)| *region)
    };
    let mut reached = BTreeMap::<_, u32>::new();
    for _ in 0..300 {
        *reached.entry(region(&mesh.ask("legacy", "/").unwrap()).unwrap()).or_default() += 1;
    }
    // Five standard deviations of 300 draws are 40.
    assert!(reached.len() == 2 && reached["eu"].abs_diff(210) <= 40, "{reached:?}");
    // One is lost: none of its requests is, and all go to the other place, not to who is in none.
    drop(us);
    for _ in 0..40 {
        let answer = mesh.ask("legacy", "/").unwrap();
        assert_eq!((answer.status, region(&answer)), (200, Some("eu")));
    }
    // Where nobody is left in any place, the others are there.
    mesh.ok(&["delete", "endpointslice", "legacy-us"]);
    mesh.ok(&["delete", "endpointslice", "legacy-eu"]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200 && region(answer) == Some("ap"));
}

/// One GET of `legacy` by the edge: the body of its answer, and what its cookie is told to be.
fn visit(mesh: &Mesh, cookie: &str) -> (String, Option<String>) {
    let mut stream = TcpStream::connect(("127.0.0.1", mesh.port("edge"))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let asked = format!(
        "GET / HTTP/1.1\r\nHost: legacy.default.mesh.localhost\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n"
    );
    stream.write_all(asked.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && !head.to_lowercase().contains("x-byrnie-session"), "{answer}");
    let told = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    (body.to_owned(), told.map(|line| line.split(';').next().unwrap().to_owned()))
}

#[test]
fn a_cookie_brings_a_caller_back_to_the_address_that_answered_it() {
    let mesh = Mesh::up(&[]);
    let port = free_port();
    let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let mut hosts: Vec<(&str, Host)> = addresses.iter().map(|address| (*address, plain(address, port))).collect();
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: legacy}\nspec:\n  \
        parentRefs: [{group: \"\", kind: Service, name: legacy, port: 80}]\n  \
        rules: [{backendRefs: [{name: legacy, port: 80}], sessionPersistence: {sessionName: stick, type: Cookie}}]\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &(legacy(port, &addresses) + route))]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    let mut seen = BTreeMap::new();
    until(
        "new callers are spread",
        || mesh.ok(&["status"]),
        || {
            if let (first, Some(cookie)) = visit(&mesh, "a=b") {
                seen.insert(first, cookie);
            }
            seen.len() == 3
        },
    );
    for (first, cookie) in &seen {
        assert!(!cookie.contains("127.0.0"), "{cookie}");
        for _ in 0..10 {
            assert_eq!(visit(&mesh, cookie), (first.clone(), None));
        }
    }
    // One of nobody's making names nobody, and whoever brings it is told a true one.
    let (first, cookie) = seen.pop_first().unwrap();
    let forged = format!("stick=abc{}", &cookie[cookie.find('.').unwrap()..]);
    for _ in 0..10 {
        let (body, told) = visit(&mesh, &forged);
        let token = |cookie: &str| cookie.split('.').next().map(str::to_owned);
        let true_one = if body == first { &cookie } else { &seen[&body] };
        assert_eq!(told.as_deref().and_then(token), token(true_one));
    }
    // Its address is gone: another answers, and is the one from then on.
    hosts.retain(|(address, _)| *address != first);
    let (second, told) = visit(&mesh, &cookie);
    let told = told.unwrap();
    assert_ne!(second, first);
    for _ in 0..10 {
        assert_eq!(visit(&mesh, &told), (second.clone(), None));
    }
}
