// SPDX-License-Identifier: Apache-2.0
//! `byrnie apply FILES`: all documents in one revision, or none.

use crate::console::{self, Console};
use crate::documents::{self, Files};
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output;
use byrnie_model::{Diagnostic, Severity, code};
use serde_json::Value;

/// Apply documents: all of them, or none
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie apply shop/
  byrnie apply -f routes.yaml --dry-run
  byrnie apply - < policy.yaml")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let documents = args.files.read(globals.namespace())?;
    let mut refused = false;
    for diagnostic in documents.iter().flat_map(|document| &document.parsed.diagnostics) {
        eprint!("{}", diagnostic.render());
        refused |= diagnostic.is_error();
    }
    if refused {
        eprintln!("nothing was applied");
        return Ok(Exit::Problem);
    }
    documents::twice(&documents)?;
    if documents.iter().all(|document| document.parsed.documents.is_empty()) {
        return Err(Failure::new(code::SYNTAX.id, "the files hold no document").into());
    }
    let dry = if args.dry_run { "true" } else { "" };
    let path = format!(
        "/api/v1/apply{}",
        console::query(&[("namespace", globals.namespace()), ("dryRun", dry), ("user", &console::user()),])
    );
    let answer = Console::find(globals)?.post_yaml(&path, documents::stream(&documents))?;
    let mut found = documents::place(&answer["diagnostics"], &documents);
    // Warnings about one document by itself were shown above.
    found.retain(|d| !documents.iter().flat_map(|of| &of.parsed.diagnostics).any(|known| known.message == d.message));
    warn(found);
    output::print(globals, &answer, |_| draw(&answer, globals.quiet))?;
    Ok(Exit::Fine)
}

/// Shows what doesn't fit, of what was done: an error is what `lint` calls it, and the mesh answers calls accordingly.
pub(super) fn warn(found: Vec<Diagnostic>) {
    for diagnostic in found {
        eprint!("{}", Diagnostic { severity: Severity::Warning, ..diagnostic }.render());
    }
}

/// A line for each resource, and the revision.
pub(super) fn draw(answer: &Value, quiet: bool) -> String {
    if quiet {
        return String::new();
    }
    let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = String::new();
    for result in results {
        out.push_str(&format!("{} {}\n", reference(result), output::cell(result, "action")));
    }
    let dry = answer["dryRun"] == true;
    let changed = results.iter().any(|result| result["action"] != "unchanged");
    match (dry, changed) {
        (true, _) => out.push_str("dry run: nothing was changed\n"),
        (false, true) => out.push_str(&format!("revision {}  (take it back with: byrnie undo)\n", answer["revision"])),
        (false, false) => out.push_str(&format!("revision {}, nothing to change\n", answer["revision"])),
    }
    out
}

/// `Kind/namespace/name`, or `Kind/name` where there is no namespace.
pub(super) fn reference(value: &Value) -> String {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    match text("namespace") {
        "" => format!("{}/{}", text("kind"), text("name")),
        namespace => format!("{}/{namespace}/{}", text("kind"), text("name")),
    }
}
