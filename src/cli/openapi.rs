//! `openapi`: the description of the HTTP API.

use std::process::ExitCode;

use clap::Args;

use super::print_json;
use crate::http::openapi::document;

/// Print the HTTP API as an OpenAPI 3.1 document, as /openapi.json has it
#[derive(Debug, Args)]
pub struct OpenapiArgs {}

/// Prints the document.
pub fn run(OpenapiArgs {}: OpenapiArgs) -> anyhow::Result<ExitCode> {
    print_json(&document())?;
    Ok(ExitCode::SUCCESS)
}
