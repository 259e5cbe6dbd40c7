// SPDX-License-Identifier: Apache-2.0
//! Files of documents, as `apply`, `lint` and `up` take them: single files, whole directories, or
//! standard input, read and checked one by one so that every message has its own file and line.

use crate::failure::Failure;
use byrnie_model::yaml::{self, Defaults, Parsed};
use byrnie_model::{Diagnostic, Severity, code};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most files of one command.
const FILES_MAX: usize = 10_000;
/// Deepest directory.
const DEPTH_MAX: usize = 32;

/// One file, read.
pub(crate) struct Document {
    /// As the user named it.
    pub file: String,
    /// What it holds.
    pub text: String,
    /// What it says.
    pub parsed: Parsed,
}

/// The files that a command names.
#[derive(clap::Args, Debug)]
pub(crate) struct Files {
    /// Files or directories of YAML or JSON; `-` is standard input
    #[arg(value_name = "FILES")]
    bare: Vec<PathBuf>,
    /// The same, as kubectl has it
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR")]
    named: Vec<PathBuf>,
}

impl Files {
    /// Reads all of them, in the order given; files of a directory in order of name.
    pub(crate) fn read(&self, namespace: &str) -> Result<Vec<Document>, Failure> {
        let named: Vec<&PathBuf> = self.named.iter().chain(&self.bare).collect();
        if named.is_empty() {
            return Err(Failure::usage("no files given").next("name files or directories, or - for standard input"));
        }
        let mut paths = Vec::new();
        for path in named {
            gather(path, 0, &mut paths)?;
        }
        if paths.is_empty() {
            return Err(Failure::usage("there are no .yaml, .yml or .json files in these directories"));
        }
        paths.iter().map(|path| read(path, namespace)).collect()
    }

    /// Whether none was named.
    pub(crate) const fn is_empty(&self) -> bool {
        self.bare.is_empty() && self.named.is_empty()
    }
}

fn gather(path: &Path, depth: usize, into: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if !path.is_dir() {
        into.push(path.to_owned());
        return Ok(());
    }
    let failed = |error: std::io::Error| of_file(path, &error);
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        inside.push(entry.map_err(failed)?.path());
    }
    inside.sort();
    for path in inside {
        let is_document = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if path.is_dir() && depth < DEPTH_MAX {
            gather(&path, depth + 1, into)?;
        } else if is_document && path.is_file() {
            into.push(path);
        }
        if into.len() > FILES_MAX {
            return Err(Failure::usage(format!("more than {FILES_MAX} files")));
        }
    }
    Ok(())
}

fn read(path: &Path, namespace: &str) -> Result<Document, Failure> {
    let file = path.display().to_string();
    let mut bytes = Vec::new();
    let most = yaml::INPUT_BYTES_MAX as u64 + 1;
    let read = if file == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|opened| opened.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| of_file(path, &error))?;
    if bytes.len() > yaml::INPUT_BYTES_MAX {
        return Err(Failure::new(code::TOO_LARGE.id, "the file is larger than 16 MiB").at(file));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(code::SYNTAX.id, "the file is not UTF-8").at(file.clone()))?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let defaults = Defaults { namespace: namespace.into(), ..Defaults::default() };
    let parsed = yaml::parse(&file, &text, &defaults);
    Ok(Document { file, text, parsed })
}

fn of_file(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(code::SYNTAX.id, format!("cannot be read: {error}"))
        .at(path.display().to_string())
        .next("check the path and its permissions")
}

/// Refuses two documents for one resource: which of them is meant can't be known.
pub(crate) fn twice(documents: &[Document]) -> Result<(), Failure> {
    let mut seen = std::collections::BTreeMap::new();
    for document in documents {
        for resource in document.parsed.documents.iter().map(|document| &document.resource) {
            let line = resource.origin.as_ref().map_or(0, |origin| origin.line);
            let place = format!("{}:{line}", document.file);
            if let Some(first) = seen.insert(&resource.key, place.clone()) {
                let detail = format!("{} is already described at {first}", resource.key);
                return Err(Failure::new(code::DUPLICATE_RESOURCE.id, detail)
                    .at(place)
                    .next(code::DUPLICATE_RESOURCE.next));
            }
        }
    }
    Ok(())
}

/// All texts as one stream of documents.
pub(crate) fn stream(documents: &[Document]) -> String {
    documents.iter().map(|document| document.text.trim_end()).collect::<Vec<_>>().join("\n---\n") + "\n"
}

/// Findings that came from the console, as diagnostics at their place in the files.
pub(crate) fn place(findings: &serde_json::Value, documents: &[Document]) -> Vec<Diagnostic> {
    let mut placed: Vec<Diagnostic> = findings.as_array().into_iter().flatten().filter_map(diagnostic).collect();
    for document in documents {
        document.parsed.place(&document.text, &mut placed);
    }
    placed
}

fn diagnostic(finding: &serde_json::Value) -> Option<Diagnostic> {
    let text = |name: &str| finding[name].as_str().unwrap_or_default();
    let code = code::Code::find(text("code"))?;
    let mut diagnostic =
        Diagnostic::error(code, text("path"), text("message")).fixed_by(text("fix")).so_that(text("effect"));
    diagnostic.severity = match text("severity") {
        "error" => Severity::Error,
        "warning" => Severity::Warning,
        _ => Severity::Info,
    };
    let mut parts = text("resource").split('/');
    let (kind, rest): (_, Vec<&str>) = (parts.next().and_then(byrnie_model::Kind::from_word), parts.collect());
    diagnostic.subject = match (kind, rest.as_slice()) {
        (Some(kind), [name]) => Some(byrnie_model::Key::new(kind, "", *name)),
        (Some(kind), [namespace, name]) => Some(byrnie_model::Key::new(kind, *namespace, *name)),
        _ => None,
    };
    Some(diagnostic)
}
