// SPDX-License-Identifier: Apache-2.0
//! Every folder of `examples/` runs with one command and says what its page promises.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

/// Runs an example and looks for what it must say.
fn check(name: &str, says: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).join("run.sh");
    let output =
        Command::new(&script).env("BYRNIE", env!("CARGO_BIN_EXE_byrnie")).env("NO_COLOR", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{said}\n{errors}", output.status);
    for line in says {
        assert!(said.contains(line), "{name} does not say {line:?}:\n{said}\n{errors}");
    }
}

#[test]
fn hello() {
    check("01-hello", &["hello from inside the mesh"]);
}

#[test]
fn canary() {
    check("02-canary", &["all calls reach v1", "after one apply, all calls reach v2", "after undo, v1 again"]);
}

#[test]
fn saga() {
    check(
        "06-saga",
        &[
            "a good order: SUCCEEDED, stock 1, charges 1, parcels 1",
            "a declined card: COMPENSATED, the stock is back, parcels 1",
            "a service killed in the middle: SUCCEEDED, charges 2",
        ],
    );
}

#[test]
fn access() {
    check("03-access", &["caller gets 403", "after byrnie allow, caller gets 200", "after delete, 403 again"]);
}

#[test]
fn routes() {
    check("04-routes", &["testers reach v2, all others v1", "old links are sent on", "copied to greeter-v2"]);
}

#[test]
fn idempotent() {
    check("05-idempotent", &["without a key: 400", "replayed", "sent twice: 1 charges", "422"]);
}

#[test]
fn gateway() {
    check(
        "07-gateway",
        &[
            "the gateway tells hosts apart",
            "no other host gets in",
            "2 routes are attached",
            "listener default/public/http",
        ],
    );
}
