//! What the worker says of its functions: asked for by `ol worker status` and `admin status`.

use super::error::CliError;
use super::settings::Settings;
use super::table::{Lambda, Lambdas};
use super::talk;
use crate::client::Reply;

/// The worker's own words, as JSON.
pub(super) fn described(settings: &Settings) -> Result<Reply, CliError> {
    let reply = talk::ask(&settings.client(), "/lambdas")??;
    accepted("GET", "/lambdas", reply)
}

pub(super) fn lambdas(settings: &Settings) -> Result<Vec<Lambda>, CliError> {
    Ok(overview(settings)?.lambdas)
}

/// These, and what is said of the worker as a whole.
pub(super) fn overview(settings: &Settings) -> Result<Lambdas, CliError> {
    described(settings)?.json().map_err(|error| {
        CliError::Answer(format!("the worker's answer to GET /lambdas is not understood: {error}"))
    })
}

/// An answer of success, or the worker's own words as the error.
pub(super) fn accepted(method: &'static str, path: &str, reply: Reply) -> Result<Reply, CliError> {
    if reply.status.is_success() {
        return Ok(reply);
    }
    let text = reply.text().trim().to_owned();
    let said = if text.is_empty() { reply.status.to_string() } else { format!("{}: {text}", reply.status) };
    Err(CliError::Refused { method, path: path.to_owned(), said })
}
