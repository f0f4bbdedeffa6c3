//! `/pprof/…`: profiles of the worker itself.

use actix_web::error::BlockingError;
use actix_web::{HttpRequest, HttpResponse, web};

use super::Shared;
use super::error::HttpError;
use super::registry::not_from_a_page;
use crate::profile::ProfileError;

impl From<ProfileError> for HttpError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Running | ProfileError::NotRunning => Self::BadOrder(error.to_string()),
            ProfileError::Taking => Self::Busy(error.to_string()),
            ProfileError::Failed(_) => Self::Registry(error.to_string()),
        }
    }
}

/// `/pprof/cpu-start`.
pub(super) async fn start(request: HttpRequest, app: Shared) -> HttpResponse {
    match not_from_a_page(&request).and_then(|()| Ok(app.profiler.start()?)) {
        Ok(()) => HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(""),
        Err(error) => error.response(),
    }
}

/// `/pprof/cpu-stop`: the profile, for `go tool pprof` and the like.
pub(super) async fn stop(request: HttpRequest, app: Shared) -> HttpResponse {
    if let Err(error) = not_from_a_page(&request) {
        return error.response();
    }
    let profiler = app.profiler.clone();
    given(web::block(move || profiler.stop()).await)
}

/// `/pprof/mem`: what is in use now, likewise.
pub(super) async fn memory(request: HttpRequest, app: Shared) -> HttpResponse {
    if let Err(error) = not_from_a_page(&request) {
        return error.response();
    }
    let profiler = app.heap.clone();
    given(web::block(move || profiler.take()).await)
}

fn given(taken: Result<Result<Vec<u8>, ProfileError>, BlockingError>) -> HttpResponse {
    match taken {
        Ok(Ok(profile)) => HttpResponse::Ok().content_type("application/octet-stream").body(profile),
        Ok(Err(error)) => HttpError::from(error).response(),
        Err(error) => HttpError::Registry(error.to_string()).response(),
    }
}
