//! `/kafka/register/<name>`: whether a function is fed from Kafka. Texts and codes are OpenLambda's.
//!
//! There a function is fed from when it is registered on; here from when it is there. So registering is mostly for what
//! was unregistered, and is answered the same in any case.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use actors::kafka::{Register, Unregister};
use actors::name::FunctionName;
use serde::Serialize;

use super::Shared;
use super::error::HttpError;
use super::find::find;

/// As OpenLambda writes it, in this order.
#[derive(Serialize)]
struct Said<'a> {
    status: &'static str,
    lambda: &'a FunctionName,
    message: String,
}

/// `POST /kafka/register/<name>`.
pub(super) async fn register(app: Shared, name: web::Path<String>) -> HttpResponse {
    let name = match name.parse::<FunctionName>() {
        Ok(name) => name,
        Err(error) => return HttpError::from(error).response(),
    };
    let route = match find(&app, &name).await {
        Ok(route) => route,
        Err(error @ HttpError::Busy(_)) => return error.response(),
        Err(error) => return text(StatusCode::NOT_FOUND, &format!("failed to load lambda config: {error}")),
    };
    if route.code.config().triggers.kafka.as_ref().is_none_or(Vec::is_empty) {
        return text(StatusCode::BAD_REQUEST, "lambda has no Kafka triggers");
    }
    match app.tree.kafka.ask(Register { name: name.clone() }).await {
        Ok(n) => said(&name, format!("Kafka consumers registered for {n} trigger(s)")),
        Err(_) => restarting(),
    }
}

/// `DELETE /kafka/register/<name>`. Whatever name it is, as in OpenLambda.
pub(super) async fn unregister(app: Shared, name: web::Path<String>) -> HttpResponse {
    let name = match name.parse::<FunctionName>() {
        Ok(name) => name,
        Err(error) => return HttpError::from(error).response(),
    };
    match app.tree.kafka.ask(Unregister { name: name.clone() }).await {
        Ok(()) => said(&name, "Kafka consumers unregistered".to_owned()),
        Err(_) => restarting(),
    }
}

/// `/kafka/register/<name>` with any other method.
pub(super) async fn no_method() -> HttpResponse {
    HttpError::PathMethod { allowed: &["POST", "DELETE"] }.response()
}

fn said(lambda: &FunctionName, message: String) -> HttpResponse {
    let said = Said { status: "success", lambda, message };
    let text = serde_json::to_string(&said).expect("names and texts can always be written");
    HttpResponse::Ok().content_type("application/json").body(text + "\n")
}

fn restarting() -> HttpResponse {
    HttpError::Busy("the readers of Kafka are being restarted; try again".into()).response()
}

/// `/kafka/register/` without a name.
pub(super) async fn no_name() -> HttpResponse {
    text(StatusCode::BAD_REQUEST, "lambda name required")
}

fn text(status: StatusCode, said: &str) -> HttpResponse {
    HttpResponse::build(status).content_type("text/plain; charset=utf-8").body(format!("{said}\n"))
}
