// SPDX-License-Identifier: Apache-2.0
//! Sites and exports: what is kept of them, and what is refused.

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\\nAA\\n-----END CERTIFICATE-----\\n";

fn site(rest: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Site\nmetadata: {{name: east}}\nspec:\n  \
         trustDomain: east.test\n  authorities: \"{PEM}\"\n{rest}"
    )
}

#[test]
fn a_site_says_who_is_to_be_found_there() {
    let text = site(
        "  gateways: ['192.0.2.7:7790', '[2001:db8::7]:7790']\n  services: [{name: orders}, {namespace: shop, name: pay, serviceAccount: payments}]\n",
    );
    let Spec::Site(site) = good(&text).remove(0).spec else { panic!("no site") };
    let found: Vec<String> =
        site.services.iter().map(|import| format!("{} {}", import.service, import.identity)).collect();
    let wanted =
        ["orders.default spiffe://east.test/ns/default/sa/orders", "pay.shop spiffe://east.test/ns/shop/sa/payments"];
    assert_eq!(found, wanted);
    // Four ways by each gateway, under names that no workload can have.
    let ways: Vec<String> = site.ways("east").map(|(name, address, _)| format!("{name} {address}")).collect();
    assert_eq!(
        (ways.len(), ways[0].as_str(), ways[4].as_str()),
        (8, "east.0 192.0.2.7:7790", "east.4 [2001:db8::7]:7790")
    );
    // One that is only let in needs no gateway.
    good(&self::site(""));
    good("apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: orders}\nspec: {}\n");
}

#[test]
fn sites_that_cannot_be_followed_are_refused() {
    let of = |services: &str| format!("  gateways: ['192.0.2.7:1']\n  services: [{services}]\n");
    for (rest, code, place) in [
        ("  gateways: [far.example:80]\n".to_owned(), "C011", "far.example:80"),
        ("  gateways: ['0.0.0.0:80']\n".to_owned(), "C011", "'0.0.0.0:80'"),
        ("  gateways: ['192.0.2.7:1', '192.0.2.7:1']\n".to_owned(), "C028", "'192.0.2.7:1'"),
        ("  services: [{name: orders}]\n".to_owned(), "C005", "spec"),
        (of("{name: a}, {name: a}"), "C028", "a"),
        (of("{name: A}"), "C008", "A"),
        (of("{name: a, serviceAccount: a/b}"), "C011", "a/b"),
        ("  mode: Flat\n".to_owned(), "C002", "mode"),
    ] {
        check_bad(&site(&rest), code, place);
    }
    check_bad(&site("").replace("east.test", "East"), "C011", "East");
    let shown = format!("\"{PEM}\"").replace("CERTIFICATE", "PRIVATE KEY");
    check_bad(&site("").replace("CERTIFICATE", "PRIVATE KEY"), "C011", &shown);
    let export = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: orders}\nspec: {exportedLabels: {a: b}}\n";
    check_bad(export, "C010", "spec");
    let gateway = |rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: sites}}\nspec:\n  gatewayClassName: byrnie\n  listeners: [{{name: sites, port: 7790, protocol: mesh.byrnie.dev/sites{rest}}}]\n"
        )
    };
    good(&gateway(""));
    check_bad(&gateway(", hostname: a.test"), "C028", "a.test");
    check_bad(&gateway(", tls: {mode: Passthrough}"), "C028", "tls");
}
