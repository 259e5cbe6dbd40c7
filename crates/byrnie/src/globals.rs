// SPDX-License-Identifier: Apache-2.0
//! Flags that every command takes, and the files in the data directory by which a client finds a mesh
//! (`ports.json` and `token`).

use crate::failure::Failure;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Flags of every command.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Directory of the mesh on this machine; a client finds ports and token there
    #[arg(long, global = true, env = "BYRNIE_DATA_DIR", default_value = ".byrnie", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address of the console, such as http://127.0.0.1:7777
    #[arg(long, global = true, env = "BYRNIE_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// The operator's token (else from the data directory)
    #[arg(long, global = true, env = "BYRNIE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Namespace of bare names (`default` unless given)
    #[arg(short, long, global = true, value_name = "NS")]
    pub namespace: Option<String>,
    /// Say only what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print without colours (also with NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// How answers are printed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// YAML
    Yaml,
    /// One JSON document a line
    Ndjson,
}

/// Port of the console unless told otherwise.
pub(crate) const CONSOLE_PORT: u16 = 7777;

/// The variable of `up --transactions`: it may hold a password, so programs that are started here don't get it.
pub(crate) const TRANSACTIONS: &str = "BYRNIE_TRANSACTIONS";

impl Globals {
    /// The namespace of bare names.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// Whether standard output takes colours.
    pub(crate) fn color(&self) -> bool {
        !self.no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stdout().is_terminal()
    }

    /// Where the console is: as told, else as the data directory says, else the usual port of this
    /// machine.
    pub(crate) fn console_url(&self) -> String {
        if let Some(url) = &self.server {
            return url.trim_end_matches('/').to_owned();
        }
        let port = std::fs::read(self.data_dir.join("ports.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .and_then(|ports| ports["console"].as_u64())
            .unwrap_or(u64::from(CONSOLE_PORT));
        format!("http://127.0.0.1:{port}")
    }

    /// The operator's token.
    ///
    /// # Errors
    /// If it isn't given and can't be read.
    pub(crate) fn operator_token(&self) -> Result<String, Failure> {
        if let Some(token) = &self.token {
            return Ok(token.trim().to_owned());
        }
        let path = self.data_dir.join("token");
        std::fs::read_to_string(&path).map(|token| token.trim().to_owned()).map_err(|error| {
            let mut failure = Failure::new(
                byrnie_model::code::UNREACHABLE.id,
                format!("no mesh here: its token cannot be read ({error})"),
            )
            .at(path.display().to_string());
            failure.exit = crate::failure::Exit::Unreachable;
            failure.next("start a mesh here with `byrnie up`, or give --data-dir, or --server and --token")
        })
    }
}
