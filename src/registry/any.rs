//! The registry of a worker, wherever its functions lie.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors::freshness::Use;
use actors::name::FunctionName;
use actors::world::{self, LocalFuture, RegistryError, World};
use slog::Logger;

use super::remote::{Poll, RemoteRegistry, Turn};
use super::upload::{Download, Replaced, Upload, UploadError};
use super::watch::{Watch, WatchEvent};
use super::{FunctionCode, LocalRegistry, Lock, OpenError, Wishes, blocking};
use crate::config::Config;

/// The registry of a worker. Cheap to clone.
#[derive(Clone)]
pub enum Registry {
    /// A directory.
    Local(LocalRegistry),
    /// A bucket, or a web server.
    Remote(RemoteRegistry),
}

/// An upload on its way. Dropped before [`commit`](Self::commit), it changes nothing. All methods block.
pub struct Change {
    upload: Upload,
    store: Option<RemoteRegistry>,
}

/// Watches a registry until it is dropped.
#[derive(Debug)]
pub struct RegistryWatch {
    _watch: Option<Watch>,
    _poll: Option<Poll>,
}

impl Registry {
    /// Opens what the configuration names, maybe beside a worker that still serves from it; see [`LocalRegistry::open_in`]. A
    /// store need not be there.
    ///
    /// # Errors
    /// When directories cannot be made, or the address of a store cannot be meant.
    pub fn open_in(
        worker: &Config,
        generations: &str,
        is_beside: bool,
        log: Logger,
    ) -> Result<Self, OpenError> {
        match &worker.registry_store {
            None => LocalRegistry::open_in(worker, generations, log).map(Self::Local),
            Some(address) => {
                RemoteRegistry::open(worker, address, (generations, is_beside), log).map(Self::Remote)
            }
        }
    }

    /// The directory that functions are read from: the registry's own, or that of the copies.
    fn local(&self) -> &LocalRegistry {
        match self {
            Self::Local(registry) => registry,
            Self::Remote(registry) => registry.mirror(),
        }
    }

    /// The directory of the registry; of one that lies in a store, that of the copies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.local().root()
    }

    /// Where the functions lie, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Local(registry) => registry.root().display().to_string(),
            Self::Remote(registry) => registry.address().text.clone(),
        }
    }

    /// Calls `tell` when something has changed, until what is given back is dropped. `poll` is how often a directory is looked at where
    /// there are no events; `use_of` tells how a function that is served is used: a store is asked only about those that are.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn watch(
        &self,
        poll: Duration,
        log: Logger,
        use_of: impl Fn(&FunctionName) -> Option<Use> + Send + 'static,
        tell: impl Fn(WatchEvent) + Send + Sync + 'static,
    ) -> io::Result<RegistryWatch> {
        match self {
            Self::Local(registry) => {
                let watch = Watch::start(registry.root(), poll, log, tell)?;
                Ok(RegistryWatch { _watch: Some(watch), _poll: None })
            }
            Self::Remote(registry) => {
                Ok(RegistryWatch { _watch: None, _poll: Some(registry.watch(use_of, tell)) })
            }
        }
    }

    /// Names of all functions, sorted, for `GET /registry/`. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be read, or the store does not answer.
    pub fn list(&self) -> Result<Vec<FunctionName>, RegistryError> {
        match self {
            Self::Local(registry) => registry.list(),
            Self::Remote(registry) => registry.list(),
        }
    }

    /// Reads one function. Blocks.
    ///
    /// # Errors
    /// As [`world::Registry::load`].
    pub fn load_blocking(
        &self,
        name: &FunctionName,
        last: Option<FunctionCode>,
    ) -> Result<Option<FunctionCode>, RegistryError> {
        match self {
            Self::Local(registry) => registry.load_blocking(name, last),
            Self::Remote(registry) => registry.load_blocking(name, last),
        }
    }

    /// Waits for a turn with the store, if the functions lie in one. To be held while [`download`](Self::download),
    /// [`list`](Self::list), [`delete`](Self::delete) or [`Change::commit`] is under way for a client: each of these has a
    /// thread and a connection until the store has answered.
    ///
    /// # Errors
    /// When others had all of them for too long.
    pub async fn turn(&self) -> Result<Turn, UploadError> {
        match self {
            Self::Local(_) => Ok(Turn::FREE),
            Self::Remote(registry) => registry.turn().await,
        }
    }

    /// Waits for a place for a download, to be held until the client has read it: what comes from a store is a file of its own.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub async fn place_for_download(&self) -> Result<Turn, UploadError> {
        match self {
            Self::Local(_) => Ok(Turn::FREE),
            Self::Remote(registry) => registry.place().await,
        }
    }

    /// A function's code as a `.tar.gz`. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn download(&self, name: &FunctionName) -> Result<Option<Download>, UploadError> {
        match self {
            Self::Local(registry) => registry.download(name),
            Self::Remote(registry) => registry.download(name),
        }
    }

    /// Deletes a function. Tells whether there was one. Blocks.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn delete(&self, name: &FunctionName) -> Result<bool, UploadError> {
        match self {
            Self::Local(registry) => registry.delete(name),
            Self::Remote(registry) => {
                registry.check_writable()?;
                registry.delete(name)
            }
        }
    }

    /// Starts an upload of the function `name`. Blocks.
    ///
    /// # Errors
    /// When the name is reserved, or nothing can be written.
    pub fn begin(&self, name: FunctionName) -> Result<Change, UploadError> {
        let store = match self {
            Self::Local(_) => None,
            Self::Remote(registry) => {
                registry.check_writable()?;
                Some(registry.clone())
            }
        };
        Ok(Change { upload: Upload::begin(self.local(), name)?, store })
    }

    /// What these wishes of a function have come to. Blocks.
    #[must_use]
    pub fn lock(&self, name: &FunctionName, wishes: &Wishes) -> Option<Lock> {
        self.local().lock(name, wishes)
    }

    /// Write down which packages these wishes of a function come to from now on, each pinned. Blocks.
    ///
    /// # Errors
    /// The system's, in words.
    pub fn write_lock(
        &self,
        name: &FunctionName,
        wishes: &Wishes,
        pins: &[String],
    ) -> Result<(), RegistryError> {
        self.local().write_lock(name, wishes, pins)
    }
}

impl Change {
    /// So many bytes are to come.
    ///
    /// # Errors
    /// When that is too much.
    pub fn announce(&self, bytes: u64) -> Result<(), UploadError> {
        self.upload.announce(bytes)
    }

    /// Take in the next bytes.
    ///
    /// # Errors
    /// When it is too much, or cannot be written.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), UploadError> {
        self.upload.write(chunk)
    }

    /// Check whether it is a function, and what that wants installed.
    ///
    /// # Errors
    /// When it is none; the text says what to mend.
    pub fn check(&mut self) -> Result<Wishes, UploadError> {
        self.upload.check()
    }

    /// Put it in the place of what had its name. Nobody sees a moment without the function.
    ///
    /// # Errors
    /// When it is no function, or cannot be put there.
    pub fn commit(self) -> Result<Replaced, UploadError> {
        match self.store {
            None => self.upload.commit(),
            Some(store) => store.put(self.upload),
        }
    }
}

impl<W: World<Code = FunctionCode>> world::Registry<W> for Registry {
    fn scan(&self) -> LocalFuture<Result<Vec<FunctionName>, RegistryError>> {
        match self {
            Self::Local(registry) => Box::pin(registry.clone().scan_and_report()),
            // The others are found by those who ask for them.
            Self::Remote(registry) => Box::pin(std::future::ready(Ok(registry.in_use()))),
        }
    }

    fn is_at_hand(&self, name: &FunctionName) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Remote(registry) => registry.has_copy(name),
        }
    }

    fn load(
        &self,
        name: FunctionName,
        last: Option<FunctionCode>,
    ) -> LocalFuture<Result<Option<FunctionCode>, RegistryError>> {
        let registry = self.clone();
        Box::pin(blocking(move || match &registry {
            Self::Local(registry) => registry.load_settled_blocking(&name, last),
            Self::Remote(registry) => registry.load_blocking(&name, last),
        }))
    }

    fn settle(
        &self,
        code: FunctionCode,
        pins: Vec<String>,
    ) -> LocalFuture<Result<FunctionCode, RegistryError>> {
        let registry = self.local().clone();
        Box::pin(blocking(move || {
            registry.write_lock(code.name(), code.wishes(), &pins)?;
            Ok(code.settled(&registry.0.locks))
        }))
    }
}

/// Handlers on many threads share it.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Registry>>();
};
