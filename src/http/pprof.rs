//! `/pprof/…`: profiles of the worker itself.

use actix_web::error::BlockingError;
use actix_web::{HttpResponse, web};

use super::Shared;
use super::error::HttpError;
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
pub(super) async fn start(app: Shared) -> HttpResponse {
    match app.profiler.start().map_err(HttpError::from) {
        Ok(()) => HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(""),
        Err(error) => error.response(),
    }
}

/// `/pprof/cpu-stop`: the profile, for `go tool pprof` and the like.
pub(super) async fn stop(app: Shared) -> HttpResponse {
    let profiler = app.profiler.clone();
    given(web::block(move || profiler.stop()).await)
}

/// `/pprof/mem`: what is in use now, likewise.
pub(super) async fn memory(app: Shared) -> HttpResponse {
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
