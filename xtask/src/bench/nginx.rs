// SPDX-License-Identifier: Apache-2.0
//! nginx' configuration for a role.

use super::peers::{Role, SERVER_NAME, Tls, other_paths};
use std::path::Path;

pub(super) fn configuration(dir: &Path, role: &Role) -> String {
    let (flag, server, scheme, upstream) = match &role.tls {
        Tls::None => ("", String::new(), "http", String::new()),
        Tls::Upstream(pki) => {
            let pki = pki.display();
            let verify = format!("proxy_ssl_verify on; proxy_ssl_trusted_certificate {pki}/ca.crt;");
            let who = format!("proxy_ssl_certificate {pki}/web.crt; proxy_ssl_certificate_key {pki}/web.key;");
            let what = format!("proxy_ssl_protocols TLSv1.3; proxy_ssl_server_name on; proxy_ssl_name {SERVER_NAME};");
            let cipher = "proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;";
            ("", String::new(), "https", format!("{verify} {who} {what} {cipher}"))
        }
        Tls::Downstream(pki) => {
            let pki = pki.display();
            let who = format!("ssl_certificate {pki}/app.crt; ssl_certificate_key {pki}/app.key;");
            let verify = format!("ssl_client_certificate {pki}/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.3;");
            let cipher = "ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_session_tickets off;";
            ("ssl", format!("{who} {verify} {cipher}"), "http", String::new())
        }
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {};\n", dir.join("temp").display()))
        .concat();
    let servers: String = role.next.iter().map(|next| format!("server {next}; ")).collect();
    let balance = if role.next.len() > 1 { "random two least_conn; " } else { "" };
    let pass = format!(
        "proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header connection \"\"; proxy_set_header host \
         $host; {upstream}"
    );
    let (map, locations) = if role.edits { edited(&pass) } else { ("", format!("location / {{ {pass} }}")) };
    format!(
        "daemon off;\nworker_processes 1;\nerror_log stderr crit;\npid {}.pid;\nworker_rlimit_nofile 16384;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n{temporary}  access_log off;\n  keepalive_timeout 300s;\n  \
         keepalive_requests 1000000000;\n  upstream next {{ {balance}{servers}keepalive 1024; keepalive_timeout 300s; \
         keepalive_requests 1000000000; }}\n  {map}\n  server {{\n    listen {} {flag} backlog=4096;\n    {server}\n    \
         {locations}\n  }}\n}}\n",
        role.name, role.listen
    )
}

fn edited(pass: &str) -> (&'static str, String) {
    let edits = "proxy_set_header x-request-id $request_id; proxy_set_header x-forwarded-for \
                 $proxy_add_x_forwarded_for; proxy_set_header x-set 1; proxy_set_header x-added \"by the route\"; \
                 proxy_set_header referer \"\"; proxy_hide_header server; add_header x-answered 1; \
                 add_header x-added \"by the route\";";
    let mut locations: String = other_paths().map(|path| format!("location {path}/ {{ return 404; }}\n    ")).collect();
    locations.push_str(&format!("location /b/ {{ if ($known = 0) {{ return 404; }} {pass} {edits} }}"));
    ("map $http_cache_control $known { default 0; no-cache 1; }", locations)
}
