//! Sandboxes by hand, with `server_mode: sock`: made, paused and destroyed by whoever asks, as OpenLambda's interface of that name has
//! it. They serve nothing; who wants that calls functions.
//!
//! A *leaf* is a sandbox with a function's code loaded. What is no leaf is a zygote, that others name as their *parent*: one that has
//! packages imported, or, if it was given code, a function's own, which only sandboxes of that function come from.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::web::{self, Payload};
use actix_web::{HttpRequest, HttpResponse};
use actors::haste::Haste;
use actors::name::FunctionName;
use actors::packages::{PackageSet, Provide};
use actors::world::{Class, Code, Gauge, LaunchError, Launcher, Making, Start};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::error::HttpError;
use super::upload::{answered, order};
use super::{App, Shared};
use crate::json;
use crate::registry::FunctionCode;
use crate::sandbox::launcher::{GrownZygote, Sandbox};
use crate::world::OlGauge;

/// Sandboxes and zygotes by hand at most, those that are being made included: each has some ten descriptors, of 20,000 or so.
const HANDS_MAX: usize = 1024;
/// That are made at once: more would only wait for the same processor.
const MAKING_MAX: usize = 16;
/// What there must be room for in the pool before one is made.
const ROOM_BYTES: u64 = 16 << 20;
/// Longest order: a path and some hundred packages.
const ORDER_BYTES_MAX: usize = 64 << 10;

/// All that were made by hand and not yet destroyed.
pub struct ByHand {
    hands: Mutex<Hands>,
    making: Semaphore,
    gauge: OlGauge,
    class: Class,
}

#[derive(Default)]
struct Hands {
    /// By number, so parents come before their children.
    all: BTreeMap<u64, Arc<Hand>>,
    last: u64,
    n_coming: usize,
    is_over: bool,
}

struct Hand {
    parent: Option<u64>,
    /// For people.
    what: String,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    is_paused: bool,
    kind: Kind,
}

enum Kind {
    /// Its code stays for as long as it does.
    Leaf { sandbox: Box<Sandbox>, _code: FunctionCode },
    /// Has packages imported. These are not removed while it lives.
    Zygote { zygote: GrownZygote, _hold: Option<Arc<dyn Any + Send + Sync>> },
    /// Has this function loaded.
    OfFunction { zygote: GrownZygote, code: FunctionCode },
}

/// Those of [`Order`].
const FIELDS: [&str; 5] = ["code", "leaf", "parent", "pkgs", "runtime"];

/// What `/create` is told: all that OpenLambda reads, and its clients send. To it a field of another name is nothing; but who wrote
/// `package` would get a sandbox without it, and would not find out why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    code: String,
    leaf: bool,
    parent: String,
    pkgs: Vec<String>,
    runtime: String,
}

impl Default for Order {
    fn default() -> Self {
        // As in OpenLambda, who does not say what it is to be wants one that runs code.
        Self {
            code: String::new(),
            leaf: true,
            parent: String::new(),
            pkgs: Vec::new(),
            runtime: String::new(),
        }
    }
}

impl Order {
    fn read(body: &[u8]) -> Result<Self, HttpError> {
        let wrong = |error: &dyn std::fmt::Display| {
            HttpError::BadOrder(format!(
                "write {{\"code\": path of a function in the registry, \"leaf\": true or false, \"parent\": id or \"\", \"pkgs\": []}}: {error}"
            ))
        };
        let mut fields = json::read_bytes(body).map_err(|error| wrong(&error))?;
        // A list would be taken for the fields in their order.
        let Some(named) = fields.as_object_mut() else { return Err(wrong(&"it is no object")) };
        // What a program has none of, it sends as null.
        named.retain(|name, value| !(value.is_null() && FIELDS.contains(&name.as_str())));
        let order: Self = serde_path_to_error::deserialize(fields).map_err(|error| wrong(&error))?;
        if !matches!(order.runtime.as_str(), "" | "python") {
            return Err(HttpError::BadOrder(format!("runtime is '{}': there is python only", order.runtime)));
        }
        Ok(order)
    }
}

/// A place among them, until it is taken or given up.
struct Coming<'a>(&'a ByHand);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.lock().n_coming -= 1;
    }
}

impl ByHand {
    /// None yet. `class` is what sandboxes without a function are like.
    #[must_use]
    /// `beside`: a number that is not that of a worker whose place this one takes, so that no number means a sandbox of
    /// both.
    pub fn new(gauge: OlGauge, class: Class, beside: Option<u32>) -> Self {
        let last = beside.map_or(0, |number| u64::from(number) << 20);
        let hands = Hands { last, ..Hands::default() };
        Self { hands: Mutex::new(hands), making: Semaphore::new(MAKING_MAX), gauge, class }
    }

    /// Destroys all, and makes no more.
    pub fn end(&self) {
        let all = {
            let mut hands = self.lock();
            hands.is_over = true;
            std::mem::take(&mut hands.all)
        };
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, Hands> {
        // Single calls of the map are made under it.
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Result<Coming<'_>, HttpError> {
        let mut hands = self.lock();
        if hands.is_over {
            return Err(HttpError::Busy("the worker is ending".into()));
        }
        if hands.all.len() + hands.n_coming >= HANDS_MAX {
            return Err(HttpError::Busy(format!(
                "there are {HANDS_MAX} sandboxes by hand already: destroy some"
            )));
        }
        hands.n_coming += 1;
        Ok(Coming(self))
    }

    fn take_in(&self, hand: Hand) -> Result<u64, HttpError> {
        let mut hands = self.lock();
        if hands.is_over {
            return Err(HttpError::Busy("the worker is ending".into()));
        }
        if hand.parent.is_some_and(|parent| !hands.all.contains_key(&parent)) {
            return Err(HttpError::NoSandbox(hand.parent.unwrap_or_default().to_string()));
        }
        hands.last += 1;
        let id = hands.last;
        hands.all.insert(id, Arc::new(hand));
        Ok(id)
    }

    fn get(&self, id: &str) -> Result<Arc<Hand>, HttpError> {
        let found = id.parse().ok().and_then(|id: u64| self.lock().all.get(&id).cloned());
        found.ok_or_else(|| HttpError::NoSandbox(id.to_owned()))
    }

    /// Takes one out, with all that come from it.
    fn take_out(&self, id: &str) -> Result<Vec<Arc<Hand>>, HttpError> {
        let none = || HttpError::NoSandbox(id.to_owned());
        let number: u64 = id.parse().map_err(|_| none())?;
        let mut hands = self.lock();
        let mut taken = vec![hands.all.remove(&number).ok_or_else(none)?];
        let mut gone = vec![number];
        let later: Vec<u64> = hands.all.range(number..).map(|(id, _)| *id).collect();
        for id in later {
            if hands.all[&id].parent.is_some_and(|parent| gone.contains(&parent)) {
                gone.push(id);
                taken.extend(hands.all.remove(&id));
            }
        }
        Ok(taken)
    }

    /// What `/debug` says of them.
    pub(super) fn describe(&self) -> String {
        let all: Vec<_> = self.lock().all.iter().map(|(id, hand)| (*id, Arc::clone(hand))).collect();
        let mut text = String::new();
        for (id, hand) in all {
            let state = hand.lock();
            let (lives, bytes) = match &state.kind {
                Kind::Leaf { sandbox, .. } => (sandbox.is_alive(), sandbox.memory_bytes()),
                Kind::Zygote { zygote, .. } | Kind::OfFunction { zygote, .. } => {
                    (zygote.is_alive(), zygote.memory_bytes())
                }
            };
            let parent = hand.parent.map_or_else(|| "none".to_owned(), |parent| parent.to_string());
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "SANDBOX {id}: {}\n  PARENT: {parent}\n  ALIVE: {lives}\n  FREEZE STATE: {}\n  MEMORY USED: {} MB\n  AGE: {} s\n",
                hand.what,
                if state.is_paused { "FROZEN" } else { "THAWED" },
                bytes >> 20,
                hand.began.elapsed().as_secs(),
            );
        }
        text
    }
}

impl Hand {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_hand(app: &App) -> Result<&ByHand, HttpError> {
    app.by_hand.as_deref().ok_or(HttpError::NotByHand)
}

fn answer(result: Result<String, HttpError>) -> HttpResponse {
    match result {
        Ok(text) => HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text),
        Err(error) => error.response(),
    }
}

/// `POST /create`: the answer is the new one's id.
pub(super) async fn create(request: HttpRequest, app: Shared, payload: Payload) -> HttpResponse {
    let mut unread = Some(payload);
    let made = match by_hand(&app) {
        Ok(by_hand) => match order(&request, &mut unread, ORDER_BYTES_MAX).await {
            Ok(body) => make(&app, by_hand, &body).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    answered(answer(made.map(|id| id.to_string())), unread)
}

async fn make(app: &App, by_hand: &ByHand, body: &[u8]) -> Result<u64, HttpError> {
    let order = Order::read(body)?;
    let _coming = by_hand.begin()?;
    let _turn = by_hand.making.acquire().await.expect("it is never closed");
    let memory = by_hand.gauge.read();
    if memory.used_bytes + ROOM_BYTES > memory.pool_bytes {
        return Err(HttpError::Busy(
            "there is no room in mem_pool_mb: destroy sandboxes, or pause none".into(),
        ));
    }
    let began = Instant::now();
    let parent = match order.parent.as_str() {
        "" => None,
        id => Some((id.parse::<u64>().unwrap_or_default(), by_hand.get(id)?)),
    };
    let parent_id = parent.as_ref().map(|(id, _)| *id);
    let parent = parent.map(|(id, hand)| parent_of(id, &hand)).transpose()?;
    let code = match order.code.trim() {
        "" => None,
        path => Some(code_at(app, path).await?),
    };
    let (kind, what) = if order.leaf {
        let code =
            code.ok_or_else(|| HttpError::BadOrder("a leaf needs code: the path of a function".into()))?;
        let what = format!("leaf of {}", code.name());
        (leaf(app, code, parent, &order.pkgs).await?, what)
    } else {
        zygote(app, by_hand.class, code, parent, &order.pkgs).await?
    };
    app.stats.create.add(began.elapsed());
    let state = Mutex::new(State { is_paused: false, kind });
    by_hand.take_in(Hand { parent: parent_id, what, began, state })
}

/// What a new one comes from.
enum Parent {
    Packages(GrownZygote),
    Function(GrownZygote, FunctionCode),
}

fn parent_of(id: u64, hand: &Hand) -> Result<Parent, HttpError> {
    let state = hand.lock();
    if state.is_paused {
        return Err(HttpError::BadOrder(format!("the parent {id} is paused")));
    }
    match &state.kind {
        Kind::Leaf { .. } => Err(HttpError::BadOrder(format!("{id} is a leaf: nothing is forked from it"))),
        Kind::Zygote { zygote, .. } => Ok(Parent::Packages(zygote.clone())),
        Kind::OfFunction { zygote, code } => Ok(Parent::Function(zygote.clone(), code.clone())),
    }
}

async fn leaf(
    app: &App,
    mut code: FunctionCode,
    parent: Option<Parent>,
    pkgs: &[String],
) -> Result<Kind, HttpError> {
    let launcher = &app.launcher;
    let sandbox = match parent {
        Some(Parent::Function(zygote, its_code)) => {
            if its_code.name() != code.name() {
                return Err(HttpError::BadOrder(format!(
                    "the parent has '{}' loaded, not '{}'",
                    its_code.name(),
                    code.name()
                )));
            }
            // What the zygote has loaded.
            code = its_code;
            launcher.spawn(code.name().clone(), zygote, code.clone()).await
        }
        other => {
            let zygote = match other {
                Some(Parent::Packages(zygote)) => Some(zygote),
                _ => None,
            };
            let (packages, _hold) = packages_of(app, &code, pkgs).await?;
            let began = Instant::now();
            let standby =
                launcher.prepare(code.class(), zygote, Haste::waited_for()).await.map_err(failed)?;
            app.stats.fork.add(began.elapsed());
            let making = Making { start: Start::Forked, packages: Duration::ZERO };
            launcher.install(code.name().clone(), standby, code.clone(), packages, making).await
        }
    };
    Ok(Kind::Leaf { sandbox: Box::new(sandbox.map_err(failed)?), _code: code })
}

async fn zygote(
    app: &App,
    class: Class,
    code: Option<FunctionCode>,
    parent: Option<Parent>,
    pkgs: &[String],
) -> Result<(Kind, String), HttpError> {
    let from = match parent {
        None => None,
        Some(Parent::Packages(zygote)) => Some(zygote),
        Some(Parent::Function(_, code)) => {
            let text = format!("the parent has '{}' loaded: only its leaves come from it", code.name());
            return Err(HttpError::BadOrder(text));
        }
    };
    if let Some(code) = code {
        let (packages, _hold) = packages_of(app, &code, pkgs).await?;
        let what = format!("zygote of {}", code.name());
        let sprouted = app.launcher.sprout(code.name().clone(), code.clone(), packages, from).await;
        return Ok((Kind::OfFunction { zygote: sprouted.map_err(failed)?, code }, what));
    }
    let (packages, hold) = installed(app, pkgs.to_vec(), false).await?;
    let what = if packages.is_empty() { "zygote".to_owned() } else { format!("zygote with {packages}") };
    let planted = app.launcher.plant(class, packages, from.into_iter().collect()).await;
    let planted = planted.map_err(|error| match error {
        LaunchError::Load(why) => HttpError::NotServable(format!("a package cannot be imported: {why}")),
        error => failed(error),
    })?;
    Ok((Kind::Zygote { zygote: planted.zygote, _hold: hold }, what))
}

/// The function at this path. Only those of the registry: whoever may ask this may not have any directory of the machine copied.
async fn code_at(app: &App, path: &str) -> Result<FunctionCode, HttpError> {
    let root = app.registry.directory().to_owned();
    let inside = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(path));
    let name = inside.to_str().unwrap_or_default().trim_end_matches('/');
    // A folder may be called like a file.
    let of_file = || name.strip_suffix(".py").filter(|_| !root.join(name).is_dir());
    let name = name.strip_suffix(".tar.gz").or_else(of_file).unwrap_or(name);
    let name: FunctionName = name.parse().map_err(|_| {
        HttpError::BadOrder(format!(
            "code is '{path}': write the name of a function, or its path in {}",
            root.display()
        ))
    })?;
    let (registry, for_load) = (app.registry.clone(), name.clone());
    let loaded = web::block(move || registry.load_blocking(&for_load, None)).await;
    match loaded {
        Ok(Ok(Some(code))) => Ok(code),
        Ok(Ok(None)) => Err(HttpError::Unknown(name.to_string())),
        Ok(Err(error @ actors::world::RegistryError::Away(_))) => Err(HttpError::Busy(error.to_string())),
        Ok(Err(error)) => Err(HttpError::NotServable(error.to_string())),
        Err(error) => Err(HttpError::Registry(error.to_string())),
    }
}

type Hold = Option<Arc<dyn Any + Send + Sync>>;

/// Those that a function asks for, and others.
async fn packages_of(
    app: &App,
    code: &FunctionCode,
    pkgs: &[String],
) -> Result<(PackageSet, Hold), HttpError> {
    if pkgs.is_empty() {
        let list = if code.is_settled() { code.pins() } else { code.packages().to_vec() };
        return installed(app, list, code.is_settled()).await;
    }
    installed(app, code.packages().iter().chain(pkgs).cloned().collect(), false).await
}

/// Which packages these are; they are installed if they are not there, and stay for as long as what is given with them lives.
async fn installed(app: &App, list: Vec<String>, is_settled: bool) -> Result<(PackageSet, Hold), HttpError> {
    if list.is_empty() {
        return Ok((PackageSet::default(), None));
    }
    let gone = || HttpError::Busy("the package manager is being restarted; try again".into());
    let wish = Provide { list, is_settled, last: Vec::new(), anew: false };
    let provided = app.tree.packages.ask(wish).await.map_err(|_| gone())??;
    Ok((provided.set, Some(provided.hold)))
}

fn failed(error: LaunchError) -> HttpError {
    match error {
        LaunchError::Load(text) | LaunchError::Unsupported(text) => HttpError::NotServable(text),
        LaunchError::Resources(_) | LaunchError::Failed(_) => HttpError::Busy(error.to_string()),
    }
}

/// `POST /destroy/<id>`: with it go all that come from it.
pub(super) async fn destroy(app: Shared, id: web::Path<String>) -> HttpResponse {
    let destroyed = by_hand(&app).and_then(|by_hand| by_hand.take_out(&id));
    answer(destroyed.map(|taken| {
        // Each ends with its entry; the reaper sees to the rest.
        drop(taken);
        String::new()
    }))
}

/// `POST /pause/<id>`.
pub(super) async fn pause(app: Shared, id: web::Path<String>) -> HttpResponse {
    answer(set_paused(&app, &id, true))
}

/// `POST /unpause/<id>`.
pub(super) async fn unpause(app: Shared, id: web::Path<String>) -> HttpResponse {
    answer(set_paused(&app, &id, false))
}

/// Another method on one of these paths.
pub(super) async fn no_method(app: Shared) -> HttpResponse {
    match by_hand(&app) {
        Ok(_) => HttpError::PathMethod { allowed: &["POST"] }.response(),
        Err(error) => error.response(),
    }
}

fn set_paused(app: &App, id: &str, is_paused: bool) -> Result<String, HttpError> {
    let hand = by_hand(app)?.get(id)?;
    let mut state = hand.lock();
    // A zygote runs only while it is forked: to pause it is to fork it no more.
    if let Kind::Leaf { sandbox, .. } = &mut state.kind {
        if !sandbox.is_alive() {
            return Err(HttpError::Died(format!("sandbox {id} has ended")));
        }
        if is_paused { sandbox.freeze() } else { sandbox.thaw() }
    }
    state.is_paused = is_paused;
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_the_fields_that_openlambdas_clients_send_and_no_others() {
        let order = Order::read(
            br#"{"code": "echo", "leaf": false, "parent": "3", "pkgs": ["a"], "runtime": "python"}"#,
        );
        let order = order.unwrap();
        assert_eq!((order.code.as_str(), order.leaf, order.parent.as_str()), ("echo", false, "3"));
        assert_eq!(order.pkgs, ["a"]);
        let order = Order::read(br#"{"code": "echo", "parent": null, "pkgs": null}"#).unwrap();
        assert!(order.leaf && order.parent.is_empty() && order.pkgs.is_empty());
        for (body, words) in [
            (r#"{"code": "echo", "packages": ["a"]}"#, "unknown field `packages`"),
            (r#"{"code": "echo", "leef": null}"#, "unknown field `leef`"),
            (r#"{"code": "echo", "leaf": true, "leaf": false}"#, "'leaf' is here a second time"),
            (r#"{"code": "echo", "pkgs": ["a", 1]}"#, "pkgs[1]: invalid type"),
            (r#"{"code": "echo", "runtime": "native"}"#, "python only"),
            (r#"["echo", true]"#, "no object"),
            ("", "line 1"),
        ] {
            let refused = Order::read(body.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(words), "{body}: {refused}");
        }
    }
}
