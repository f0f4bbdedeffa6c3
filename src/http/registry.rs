//! The registry over HTTP: upload, download, list, delete, configuration.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{self, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use actors::name::FunctionName;
use actors::packages::{Provide, Unprovided};
use actors::watcher::{Refresh, Trouble};
use actors::world::{Code, PackageError, RegistryError};
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::Shared;
use super::breaking_off::breaking_off;
use super::connection::Progress;
use super::error::HttpError;
use super::find::find;
use super::patience::patient;
use super::upload::{Pieces, Unread, announced, answered};
use crate::registry::{Lock, UploadError, Wishes};

/// Piece in which an archive is sent.
const PIECE_BYTES: usize = 64 << 10;
/// How long a client may take for one, as with most web servers. It holds a place that others may wait for.
const PIECE_PATIENCE: Duration = Duration::from_secs(60);

fn text(mut response: HttpResponseBuilder, body: String) -> HttpResponse {
    response.content_type("text/plain; charset=utf-8").body(body)
}

impl From<UploadError> for HttpError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Invalid(_) | UploadError::TooLarge { .. } | UploadError::Name(_) => {
                Self::BadUpload(error.to_string())
            }
            UploadError::ReadOnly(_) => Self::ReadOnly(error.to_string()),
            UploadError::Away(_) | UploadError::Busy(_) | UploadError::Registry(RegistryError::Away(_)) => {
                Self::Busy(error.to_string())
            }
            UploadError::Io { .. } | UploadError::Registry(_) => Self::Registry(error.to_string()),
        }
    }
}

/// The methods of a path of the registry, if it is one.
pub(super) fn allowed(path: &str) -> Option<&'static [&'static str]> {
    let parts: Vec<&str> = path.strip_prefix("/registry")?.split('/').collect();
    match parts[..] {
        [""] | ["", ""] | ["", _, "config"] => Some(&["GET"]),
        ["", _] => Some(&["GET", "POST", "DELETE"]),
        ["", _, "packages"] => Some(&["GET", "POST"]),
        _ => None,
    }
}

/// Files are slow, and a thread that serves HTTP must not wait for one.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, HttpError> {
    match web::block(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(HttpError::Registry(error.to_string())),
    }
}

/// The same, for what asks the store of the functions if they lie in one.
async fn with_store<T: Send + 'static>(
    app: &Shared,
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, HttpError> {
    let turn = app.registry.turn().await?;
    blocking(move || {
        // Until the work is done, not until the client has gone.
        let _turn = turn;
        work()
    })
    .await
}

/// `GET /registry/`.
pub(super) async fn list(app: Shared) -> HttpResponse {
    let registry = app.registry.clone();
    match with_store(&app, move || Ok(registry.list()?)).await {
        Ok(names) => HttpResponse::Ok().json(names),
        Err(error) => error.response(),
    }
}

/// `POST /registry/<name>` with a `.tar.gz`.
pub(super) async fn upload(
    request: HttpRequest,
    app: Shared,
    name: web::Path<String>,
    payload: Payload,
) -> HttpResponse {
    let mut unread = Some(payload);
    let response = match take_in(&app, &name, announced(&request), &mut unread).await {
        Ok(name) => text(HttpResponse::Created(), format!("Lambda {name} uploaded successfully")),
        Err(error) => error.response(),
    };
    answered(response, unread)
}

async fn take_in(
    app: &Shared,
    name: &str,
    n_announced: Option<u64>,
    unread: &mut Unread,
) -> Result<FunctionName, HttpError> {
    let began = Instant::now();
    let name: FunctionName = name.parse()?;
    let registry = app.registry.clone();
    let for_upload = name.clone();
    let mut upload = blocking(move || registry.begin(for_upload)).await?;
    upload.announce(n_announced.unwrap_or_default())?;
    let mut pieces = Pieces::of(unread);
    while let Some(chunk) = pieces.next().await? {
        upload = blocking(move || {
            upload.write(&chunk)?;
            Ok(upload)
        })
        .await?;
    }
    let (upload, wishes) = blocking(move || {
        let wishes = upload.check()?;
        Ok((upload, wishes))
    })
    .await?;
    // Before anything is replaced: what cannot have its packages does not take the place of what has them.
    let hold = provide(app, &name, wishes, false).await?;
    with_store(app, move || upload.commit().map(drop)).await?;
    // So that whoever gets the answer can call it: the watcher would see it a moment later.
    refresh(app, &name).await?;
    drop(hold);
    app.stats.pull.add(began.elapsed());
    Ok(name)
}

/// Sees to it that a function's packages are there, and writes down which these are. They stay for as long as what is given
/// back lives. `anew`: although they are settled.
async fn provide(
    app: &Shared,
    name: &FunctionName,
    wishes: Wishes,
    anew: bool,
) -> Result<Option<Arc<dyn Any + Send + Sync>>, HttpError> {
    if wishes.lines.is_empty() {
        return Ok(None);
    }
    let (registry, for_lock) = (app.registry.clone(), (name.clone(), wishes.clone()));
    let lock = blocking(move || Ok(registry.lock(&for_lock.0, &for_lock.1))).await?;
    let served = app.tree.routes.get(name.as_str());
    let last = served.map(|route| route.code.packages().to_vec()).filter(|_| !anew).unwrap_or_default();
    let is_settled = lock.is_some() && !anew;
    let list = match &lock {
        Some(lock) if is_settled => lock.pins(),
        _ => wishes.lines.clone(),
    };
    let provided = app.tree.packages.ask(Provide { list, is_settled, last, anew }).await;
    let provided = match provided {
        Ok(Ok(provided)) => provided,
        Ok(Err(unprovided)) => return Err(unprovided.into()),
        Err(_) => return Err(HttpError::Busy("the package manager is being restarted; try again".into())),
    };
    if !is_settled {
        let (registry, name, pins) = (app.registry.clone(), name.clone(), provided.pins);
        blocking(move || Ok(registry.write_lock(&name, &wishes, &pins)?)).await?;
    }
    Ok(Some(provided.hold))
}

impl From<Unprovided> for HttpError {
    fn from(unprovided: Unprovided) -> Self {
        match unprovided.error {
            PackageError::Refused(text) => Self::BadUpload(text),
            PackageError::Away(text) => Self::Busy(text),
            PackageError::Failed(text) => Self::Registry(text),
        }
    }
}

/// `GET /registry/<name>/packages`: what it asks for, and what that has come to.
pub(super) async fn packages(app: Shared, name: web::Path<String>) -> HttpResponse {
    match packages_of(&app, &name).await {
        Ok(packages) => HttpResponse::Ok().json(packages),
        Err(error) => error.response(),
    }
}

/// `POST /registry/<name>/packages`: settle anew what it asks for, and use that from now on.
pub(super) async fn update(app: Shared, name: web::Path<String>) -> HttpResponse {
    match settle_anew(&app, &name).await {
        Ok(packages) => HttpResponse::Ok().json(packages),
        Err(error) => error.response(),
    }
}

async fn settle_anew(app: &Shared, name: &str) -> Result<serde_json::Value, HttpError> {
    let parsed: FunctionName = name.parse()?;
    let registry = app.registry.clone();
    let for_load = parsed.clone();
    // As it is in the registry now, whether that can be served yet or not.
    let loaded = blocking(move || Ok(registry.load_blocking(&for_load, None)?)).await?;
    let code = loaded.ok_or_else(|| HttpError::Unknown(parsed.to_string()))?;
    let hold = provide(app, &parsed, code.wishes().clone(), true).await?;
    refresh(app, &parsed).await?;
    drop(hold);
    packages_of(app, name).await
}

async fn packages_of(app: &Shared, name: &str) -> Result<serde_json::Value, HttpError> {
    let name: FunctionName = name.parse()?;
    let route = find(app, &name).await?;
    let settled = route.code.lock().and_then(|lock| lock.settled);
    Ok(serde_json::json!({
        "requirements": route.code.wishes().lines,
        "packages": route.code.lock().map(Lock::packages).unwrap_or_default(),
        "settled": settled.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
    }))
}

/// `GET /registry/<name>`: the code as a `.tar.gz`.
pub(super) async fn download(request: HttpRequest, app: Shared, name: web::Path<String>) -> HttpResponse {
    let name: FunctionName = match name.parse() {
        Ok(name) => name,
        Err(error) => return HttpError::from(error).response(),
    };
    let registry = app.registry.clone();
    let for_download = name.clone();
    let found = async {
        let place = registry.place_for_download().await?;
        let found = with_store(&app, move || registry.download(&for_download)).await?;
        Ok::<_, HttpError>(found.map(|found| (found, place)))
    };
    match found.await {
        Ok(Some((found, place))) => {
            let file = (tokio::fs::File::from_std(found.file), place);
            let pieces = futures_util::stream::unfold(file, |(mut file, place)| async move {
                let mut piece = vec![0; PIECE_BYTES];
                match file.read(&mut piece).await {
                    Ok(0) => None,
                    Ok(n) => {
                        piece.truncate(n);
                        Some((Ok(Bytes::from(piece)), (file, place)))
                    }
                    Err(error) => Some((Err(error), (file, place))),
                }
            });
            let pieces = patient(breaking_off(pieces, Progress::of_client(&request)), PIECE_PATIENCE);
            HttpResponse::Ok().content_type("application/gzip").no_chunking(found.bytes).streaming(pieces)
        }
        Ok(None) => HttpError::Unknown(name.to_string()).response(),
        Err(error) => error.response(),
    }
}

/// `DELETE /registry/<name>`.
pub(super) async fn delete(app: Shared, name: web::Path<String>) -> HttpResponse {
    match take_out(&app, &name).await {
        Ok(name) => text(HttpResponse::Ok(), format!("Lambda {name} deleted successfully")),
        Err(error) => error.response(),
    }
}

async fn take_out(app: &Shared, name: &str) -> Result<FunctionName, HttpError> {
    let name: FunctionName = name.parse()?;
    let registry = app.registry.clone();
    let for_delete = name.clone();
    if !with_store(app, move || registry.delete(&for_delete)).await? {
        return Err(HttpError::Unknown(name.to_string()));
    }
    refresh(app, &name).await?;
    Ok(name)
}

/// What has just changed is live when this is over.
async fn refresh(app: &Shared, name: &FunctionName) -> Result<(), HttpError> {
    match app.tree.watcher.ask(Refresh { name: name.clone() }).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(Trouble::Rejected(text))) => Err(HttpError::NotServable(text)),
        Ok(Err(trouble)) => Err(HttpError::Busy(trouble.to_string())),
        Err(_) => Err(HttpError::Busy(
            "the registry's watcher is being restarted; the change is seen a moment later".into(),
        )),
    }
}

/// `GET /registry/<name>/config`, in OpenLambda's shape.
pub(super) async fn config(app: Shared, name: web::Path<String>) -> HttpResponse {
    match config_of(&app, &name).await {
        Ok(config) => HttpResponse::Ok().json(config),
        Err(error) => error.response(),
    }
}

async fn config_of(app: &Shared, name: &str) -> Result<serde_json::Value, HttpError> {
    let name: FunctionName = name.parse()?;
    let route = find(app, &name).await?;
    Ok(route.code.config().to_registry_json(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_method_on_a_path_of_the_registry_is_told_which_there_are() {
        assert_eq!(allowed("/registry"), Some(&["GET"][..]));
        assert_eq!(allowed("/registry/"), Some(&["GET"][..]));
        assert_eq!(allowed("/registry/f"), Some(&["GET", "POST", "DELETE"][..]));
        assert_eq!(allowed("/registry/f/config"), Some(&["GET"][..]));
        assert_eq!(allowed("/registry/f/packages"), Some(&["GET", "POST"][..]));
        for other in ["/registryx", "/registry/f/other", "/registry/f/config/x", "/run/f"] {
            assert_eq!(allowed(other), None, "{other}");
        }
        let error = HttpError::PathMethod { allowed: allowed("/registry/f").unwrap() };
        let response = error.response();
        assert_eq!(response.status().as_u16(), 405);
        assert_eq!(response.headers().get("allow").unwrap(), "GET, POST, DELETE");
        assert_eq!(error.to_string(), "method not allowed");
    }
}
