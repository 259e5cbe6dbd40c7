// SPDX-License-Identifier: Apache-2.0
//! `byrnie lint [FILES]`: what is wrong with documents, each by itself and beside each other; beside what
//! is in force too, if a mesh is reached. Without files: what is wrong with what is in force.

use crate::console::{self, Console};
use crate::documents::{self, Document, Files};
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output;
use byrnie_catalog::Catalog;
use byrnie_model::{Change, Diagnostic};
use serde_json::Value;
use std::sync::Arc;

/// Find mistakes in documents, offline or beside a running mesh
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie lint shop/
  byrnie lint -f routes.yaml -o json
  byrnie lint")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Don't ask a running mesh, even if there is one
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let found = if args.files.is_empty() {
        let answer = Console::find(globals)?.post_yaml("/api/v1/lint", String::new())?;
        documents::place(&answer, &[])
    } else {
        let documents = args.files.read(globals.namespace())?;
        documents::twice(&documents)?;
        let mut found: Vec<Diagnostic> = documents.iter().flat_map(|d| d.parsed.diagnostics.clone()).collect();
        let live = if args.offline { None } else { ask(globals, &documents) };
        found.extend(live.unwrap_or_else(|| alone(&documents)));
        found
    };
    let answer: Vec<Value> = found.iter().map(Diagnostic::to_json).collect();
    output::print(globals, &Value::Array(answer), |_| draw(&found))?;
    Ok(if found.iter().any(Diagnostic::is_error) { Exit::Problem } else { Exit::Fine })
}

/// Findings beside what is in force; `None` if no mesh is reached, or it can't read the documents.
fn ask(globals: &Globals, documents: &[Document]) -> Option<Vec<Diagnostic>> {
    if documents.iter().any(|document| document.parsed.has_errors()) {
        return None;
    }
    let path = format!("/api/v1/lint{}", console::query(&[("namespace", globals.namespace())]));
    let answer = Console::find(globals).ok()?.post_yaml(&path, documents::stream(documents)).ok()?;
    let mut placed = documents::place(&answer, documents);
    // What each document says by itself was found here already.
    placed.retain(|d| !documents.iter().any(|f| f.parsed.diagnostics.iter().any(|known| known.message == d.message)));
    Some(placed)
}

/// Findings among the documents alone.
fn alone(documents: &[Document]) -> Vec<Diagnostic> {
    let mut catalog = Catalog::new();
    for document in documents.iter().flat_map(|document| &document.parsed.documents) {
        catalog.apply(&Change::Put(Arc::new(document.resource.clone())));
    }
    let mut found = catalog.check();
    for document in documents {
        let mut own: Vec<Diagnostic> = found.extract_if(.., |d| *d.file == *document.file).collect();
        own.iter_mut().for_each(|d| d.column = 0);
        document.parsed.place(&document.text, &mut own);
        found.extend(own);
    }
    found
}

fn draw(found: &[Diagnostic]) -> String {
    let errors = found.iter().filter(|d| d.is_error()).count();
    let mut out: String = found.iter().map(Diagnostic::render).collect();
    match (errors, found.len() - errors) {
        (0, 0) => out.push_str("no mistakes found\n"),
        (errors, others) => {
            out.push_str(&format!("{}, {}\n", output::count(errors, "error"), output::count(others, "warning")))
        }
    }
    out
}
