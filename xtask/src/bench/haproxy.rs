// SPDX-License-Identifier: Apache-2.0
//! HAProxy's configuration for a role.

use super::peers::{Role, SERVER_NAME, Tls, other_paths};
use std::fmt::Write as _;

pub(super) fn configuration(role: &Role) -> String {
    let (up, down) = (role.http2.is_up(), role.http2.is_down());
    let (bind, server) = match &role.tls {
        Tls::None => {
            let proto = |on: bool| if on { "proto h2" } else { "" };
            (proto(down).to_owned(), proto(up).to_owned())
        }
        Tls::Upstream(pki) => {
            let (pki, alpn) = (pki.display(), if up { "alpn h2" } else { "" });
            let verify = format!("ca-file {pki}/ca.crt verify required verifyhost {SERVER_NAME}");
            (String::new(), format!("ssl crt {pki}/web.pem {verify} sni str({SERVER_NAME}) {alpn}"))
        }
        Tls::Downstream(pki) => {
            let (pki, alpn) = (pki.display(), if down { "alpn h2" } else { "" });
            (format!("ssl crt {pki}/app.pem ca-file {pki}/ca.crt verify required {alpn}"), String::new())
        }
    };
    let mode = if role.opaque { "tcp" } else { "http\n  timeout http-keep-alive 300s\n  http-reuse always" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 8192\n  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  \
         ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n  tune.ssl.cachesize 0\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  backlog 4096\n\
         frontend in\n  bind {} {bind}\n",
        role.listen
    );
    if role.edits {
        text.push_str(
            "  option forwardfor\n  http-request set-header x-request-id %[uuid()]\n  http-request set-header x-set 1\n  \
             http-request add-header x-added by\\ the\\ route\n  http-request del-header referer\n  \
             http-response set-header x-answered 1\n  http-response add-header x-added by\\ the\\ route\n  \
             http-response del-header server\n",
        );
        for path in other_paths() {
            writeln!(text, "  use_backend other if {{ path_beg {path}/ }} or {{ path {path} }}").ok();
        }
        text.push_str("  use_backend next if { path_beg /b/ } { req.hdr(cache-control) no-cache }\nbackend other\n");
    } else {
        text.push_str("  default_backend next\n");
    }
    text.push_str("backend next\n");
    if role.next.len() > 1 {
        text.push_str("  balance random(2)\n");
    }
    for (at, next) in role.next.iter().enumerate() {
        writeln!(text, "  server next{at} {next} pool-max-conn 1024 {server}").ok();
    }
    text
}
