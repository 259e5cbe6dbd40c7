// SPDX-License-Identifier: Apache-2.0
//! What is answered by the mesh in place of a program, or for it on its way: with real processes, and curl outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, file, free_port, until};
use std::process::Command;

/// A service of Python's own, which serves what lies in a folder of the mesh.
fn shop(mesh: &Mesh) -> Program {
    let page = "<p>all that is to be had</p>\n".repeat(500);
    let folder = file(mesh, "page.html", &page);
    let folder = folder.strip_suffix("/page.html").unwrap();
    let port = free_port().to_string();
    let serve = ["python3", "-m", "http.server", &port, "--bind", "127.0.0.1", "--directory", folder];
    mesh.run(&["--name", "shop", "--port", &port], &serve)
}

/// A gateway with routes to `shop`, but that one path is answered by the route itself.
fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec: {{gatewayClassName: byrnie, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec:
  parentRefs: [{{name: public}}]
  rules:
  - matches: [{{path: {{value: /closed}}}}]
    filters:
    - {{type: ExtensionRef, extensionRef: {{group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: closed}}}}
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: retry-after, value: '3600'}}]}}}}
  - backendRefs: [{{name: shop, port: 80}}]
"
    )
}

fn closed(body: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: HTTPRouteFilter\nmetadata: {{name: closed}}\n\
         spec: {{directResponse: {{statusCode: 503, contentType: text/html, body: {{inline: {body}}}}}}}\n"
    )
}

/// Head and body of what curl is answered.
fn curl(url: &str, more: &[&str]) -> String {
    let output = Command::new("curl").args(["-sSi", "-m", "10"]).args(more).arg(url).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_gateway_answers_by_itself_what_a_route_says() {
    let mesh = Mesh::up(&[]);
    let _shop = shop(&mesh);
    let port = free_port();
    let told = mesh.cli(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(port))]);
    let warned = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && warned.contains("BYR-C085"), "{warned}");
    let (page, closed_at) =
        (format!("http://127.0.0.1:{port}/page.html"), format!("http://127.0.0.1:{port}/closed/now"));
    until("the gateway", || curl(&page, &[]), || curl(&page, &[]).contains("all that is to be had"));
    let resolved = || {
        let route = mesh.json(&["get", "httproute", "shop"]);
        let conditions = route["status"]["parents"][0]["conditions"].as_array().unwrap().clone();
        conditions.iter().find(|one| one["type"] == "ResolvedRefs").unwrap()["reason"].as_str().unwrap().to_owned()
    };
    // Nobody says what the answer is, and the request goes nowhere else.
    assert_eq!(resolved(), "FilterNotFound");
    assert!(curl(&closed_at, &[]).starts_with("HTTP/1.1 500 "), "{}", curl(&closed_at, &[]));
    for body in ["until-noon", "until-night"] {
        mesh.ok(&["apply", "-f", &file(&mesh, "closed.yaml", &closed(body))]);
        let said = || curl(&closed_at, &["-X", "POST", "-d", "order"]);
        until("the answer", said, || said().ends_with(&format!("\r\n\r\n{body}")));
        assert!(said().starts_with("HTTP/1.1 503 ") && said().contains("content-type: text/html\r\n"), "{}", said());
        assert!(said().contains("retry-after: 3600\r\n"), "{}", said());
    }
    assert_eq!(resolved(), "ResolvedRefs");
    assert!(curl(&page, &[]).contains("all that is to be had"), "other paths go on to the program");
    let explained = mesh.json(&["explain", &format!("GET {closed_at}"), "--from", "edge"]);
    assert_eq!((&explained["decision"], &explained["status"]), (&"allow".into(), &503.into()), "{explained}");
    assert!(explained.to_string().contains("HTTPRouteFilter closed"), "{explained}");
}

#[test]
fn what_a_program_says_is_compressed_for_curl() {
    let mesh = Mesh::up(&[]);
    let _shop = shop(&mesh);
    let port = free_port();
    mesh.ok(&["apply", "-f", &file(&mesh, "closed.yaml", &closed("until-noon"))]);
    mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(port))]);
    let page = format!("http://127.0.0.1:{port}/page.html");
    let plain = || curl(&page, &[]);
    until("the gateway", plain, || plain().contains("all that is to be had"));
    assert!(!curl(&page, &["--compressed"]).contains("content-encoding"), "nobody has asked for it yet");
    let policy = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: shop}\n\
                  spec: {targetRefs: [{name: shop}], compression: {types: [Gzip]}}\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "policy.yaml", policy)]);
    let said = || curl(&page, &["--compressed"]);
    until("compressed answers", said, || said().contains("content-encoding: gzip\r\n"));
    // Past the program's proxy and the edge it's packed once, and what curl unpacks is the page.
    let body = |answer: String| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(body(said()), body(plain()));
    assert!(plain().to_lowercase().contains("content-length: 14500\r\n"), "{}", plain());
    let bytes = |more: &[&str]| {
        let args = [&["-s", "-o", "/dev/null", "-m", "10", "-w", "%{size_download}"], more].concat();
        let output = Command::new("curl").args(args).arg(&page).output().unwrap();
        String::from_utf8(output.stdout).unwrap().parse::<u64>().unwrap()
    };
    assert!(bytes(&["--compressed"]) < bytes(&[]) / 20, "{}", bytes(&["--compressed"]));
    let explained = mesh.json(&["explain", "GET http://shop.mesh.localhost/page.html", "--from", "edge"]);
    assert!(explained.to_string().contains("TrafficPolicy/default/shop"), "{explained}");
}
