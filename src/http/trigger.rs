//! Calls without a client: what triggers ask for goes the way of a request from here on.
//!
//! Which methods a function serves is about HTTP, and not looked at: a function with `http: []` is called by its triggers
//! and by nobody else.

use std::rc::Rc;

use actix_web::body::MessageBody;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpResponse, http::Method};
use actors::name::FunctionName;
use actors::outcome::Outcome;
use actors::pool::Refusal;
use actors::world::{LaunchError, LocalFuture};
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::error::HttpError;
use super::find::find;
use super::run::{Asked, Call};
use super::upload::Body;
use crate::triggers::{Answer, Calls, Event, Job};

/// How much of an answer is kept for the log.
const TEXT_BYTES_MAX: usize = 2 << 10;

/// Does the jobs of triggers on this thread, an arbiter's, for as long as there is a desk that they are brought to.
pub async fn attend(app: Data<App>, mut jobs: UnboundedReceiver<Job>) {
    let calls: Rc<dyn Calls> = Rc::new(Here(app));
    while let Some(job) = jobs.recv().await {
        actix_web::rt::spawn(job(Rc::clone(&calls)));
    }
}

/// Makes calls on this thread.
struct Here(Data<App>);

impl Calls for Here {
    fn call(&self, name: &FunctionName, event: Event) -> LocalFuture<Answer> {
        let (app, name) = (self.0.clone(), name.clone());
        Box::pin(async move {
            let wanted = event.wanted;
            match ask(&app, &name, event).await {
                Ok(response) => heard(response.0, wanted, response.1).await,
                Err(error) => Answer { outcome: outcome(&error), found: None },
            }
        })
    }
}

/// The head of the answer, and until when the rest of it may take.
async fn ask(app: &App, name: &FunctionName, event: Event) -> Result<(HttpResponse, Instant), HttpError> {
    let route = find(app, name).await?;
    let Event { headers, body, .. } = event;
    if body.len() > app.body_bytes_max {
        return Err(HttpError::BodyTooLong { mb_max: app.body_bytes_max >> 20 });
    }
    let headers = header_map(headers, body.len());
    let asked = Asked { method: Method::POST.as_str(), query: None, headers: &headers, client: None };
    let mut call = Call::new(asked, name, "/", &route, app);
    let runtime = call.runtime;
    let response = call.run(app, &route, Body { first: body, rest: None }).await?;
    Ok((response, Instant::now() + runtime))
}

fn header_map(headers: Vec<(&'static str, String)>, n_body: usize) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    map.insert(CONTENT_LENGTH, HeaderValue::from(n_body));
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            map.insert(HeaderName::from_static(name), value);
        }
    }
    map
}

/// Reads the answer to its end, so that its sandbox is free again; keeps the beginning of a failure's.
async fn heard(response: HttpResponse, wanted: Option<&str>, until: Instant) -> Answer {
    let status = response.status().as_u16();
    let found = wanted.and_then(|wanted| response.headers().get(wanted)?.to_str().ok().map(str::to_owned));
    let mut kept: Vec<u8> = Vec::new();
    let body = response.into_body();
    let ended = match body.try_into_bytes() {
        Ok(bytes) => {
            keep(&mut kept, &bytes);
            Ok(())
        }
        Err(body) => {
            let mut body = std::pin::pin!(body);
            loop {
                let piece = std::future::poll_fn(|cx| body.as_mut().poll_next(cx));
                match timeout_at(until, piece).await {
                    Ok(Some(Ok(piece))) => keep(&mut kept, &piece),
                    Ok(Some(Err(error))) => break Err((502, error.to_string())),
                    Ok(None) => break Ok(()),
                    Err(_) => break Err((504, "the answer does not end".to_owned())),
                }
            }
        }
    };
    let outcome = match ended {
        Ok(()) => Outcome::of_answer(status, String::from_utf8_lossy(&kept).into_owned()),
        Err((status, text)) => Outcome::Failed { status, text },
    };
    Answer { outcome, found }
}

fn keep(kept: &mut Vec<u8>, piece: &Bytes) {
    let n = TEXT_BYTES_MAX.saturating_sub(kept.len()).min(piece.len());
    kept.extend_from_slice(&piece[..n]);
}

/// What an error of the worker comes to for somebody who can wait.
fn outcome(error: &HttpError) -> Outcome {
    let text = error.to_string();
    let status = error.status().as_u16();
    match error {
        HttpError::Unknown(_) | HttpError::Refused(Refusal::Retiring) => Outcome::Gone,
        // Code that cannot be loaded is the function's own failure, and no want of room.
        HttpError::Refused(Refusal::Launch(LaunchError::Load(_) | LaunchError::Unsupported(_))) => {
            Outcome::Failed { status, text }
        }
        HttpError::Refused(_) | HttpError::Installing | HttpError::Busy(_) | HttpError::NotServable(_) => {
            Outcome::NoRoom { text }
        }
        _ => Outcome::of_answer(status, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_worker_refuses_is_no_failure_of_the_function() {
        for error in [
            HttpError::Refused(Refusal::QueueFull),
            HttpError::Refused(Refusal::QueueTimeout),
            HttpError::Refused(Refusal::ShuttingDown),
            HttpError::Refused(Refusal::Restarting),
            HttpError::Refused(Refusal::Launch(LaunchError::Resources("memory".into()))),
            HttpError::Busy("later".into()),
        ] {
            assert!(matches!(outcome(&error), Outcome::NoRoom { .. }), "{error}");
        }
        for error in [
            HttpError::Deadline(30),
            HttpError::Died("it was killed".into()),
            HttpError::Refused(Refusal::Launch(LaunchError::Load("Traceback".into()))),
        ] {
            assert!(matches!(outcome(&error), Outcome::Failed { .. }), "{error}");
        }
        assert!(matches!(
            outcome(&HttpError::BodyTooLong { mb_max: 6 }),
            Outcome::Rejected { status: 413, .. }
        ));
        assert_eq!(outcome(&HttpError::Unknown("f".into())), Outcome::Gone);
    }

    #[actix_web::test]
    async fn an_answer_is_read_to_its_end_and_its_beginning_kept() {
        let pieces = (0..100).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1000])));
        let response = HttpResponse::InternalServerError()
            .insert_header(("x-kafka-seek-offset", "7"))
            .streaming(futures_util::stream::iter(pieces));
        let until = Instant::now() + std::time::Duration::from_secs(10);
        let answer = heard(response, Some("x-kafka-seek-offset"), until).await;
        assert_eq!(answer.found.as_deref(), Some("7"));
        let Outcome::Failed { status: 500, text } = answer.outcome else { panic!("{:?}", answer.outcome) };
        assert_eq!(text.len(), TEXT_BYTES_MAX);
    }
}
