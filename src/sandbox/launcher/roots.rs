//! The root zygotes: those that run no code but ours.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use actors::world::{Class, LaunchError, Network};

use super::grown::GrownZygote;
use super::{Inner, failed};
use crate::sandbox::cgroup::Limits;
use crate::sandbox::family::Family;
use crate::sandbox::uids::ROOT_SANDBOX_UIDS;
use crate::sandbox::wire::ShimSpec;
use crate::sandbox::zygote::Zygote;

/// What the shim and the zygote of a family may use. One interpreter with the standard library is 25 MB; and the kernel counts to
/// the shim what it takes for the namespaces of each sandbox, some half a megabyte: with 1 GiB for all, two thousand sandboxes were
/// the end of the zygote.
const FAMILY_LIMITS: Limits = Limits {
    memory_bytes: (1 << 30) + ROOT_SANDBOX_UIDS as u64 * (1 << 20),
    swap_bytes: 1 << 30,
    cpu_percent: 1000,
    n_processes: 70_000,
};

/// Where a family's root zygote is, once it was asked for. The lock is held while one is started, so that many who miss
/// it start one; it is only ever taken where blocking is allowed.
#[derive(Debug, Default)]
pub(super) struct RootPlace(pub(super) Arc<Mutex<Option<Arc<Zygote>>>>);

impl Inner {
    pub(super) async fn zygote_or_root(
        self: &Arc<Self>,
        class: Class,
        zygote: Option<&GrownZygote>,
    ) -> Result<Arc<Zygote>, LaunchError> {
        match zygote {
            Some(zygote) => Ok(Arc::clone(&zygote.0.zygote)),
            None => self.root_zygote(class.network != Network::Host).await,
        }
    }

    /// The zygote that runs no code but ours.
    async fn root_zygote(self: &Arc<Self>, own_network: bool) -> Result<Arc<Zygote>, LaunchError> {
        let place = if own_network { &self.isolated } else { &self.on_host };
        if let Ok(guard) = place.0.try_lock()
            && let Some(zygote) = guard.as_ref()
            && zygote.is_alive()
        {
            return Ok(Arc::clone(zygote));
        }
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || inner.root_zygote_blocking(own_network))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(failed("start a zygote"))
    }

    pub(super) fn root_zygote_blocking(&self, own_network: bool) -> io::Result<Arc<Zygote>> {
        let place = if own_network { &self.isolated } else { &self.on_host };
        let mut guard = place.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zygote) = guard.as_ref()
            && zygote.is_alive()
        {
            return Ok(Arc::clone(zygote));
        }
        if let Some(dead) = guard.take() {
            dead.shells.close();
        }
        let number = self.next_family.fetch_add(1, Ordering::Relaxed);
        let cgroup = self
            .cgroups
            .create(&format!("family-{number}"), FAMILY_LIMITS, None)
            .map_err(io::Error::other)?;
        let spec = ShimSpec {
            base: self.spec.base.clone(),
            mount_point: self.spec.scratch.clone(),
            own_network,
            uid_base: self.slot.uid_base(),
            dns: self.spec.dns.clone(),
            python: self.spec.python.clone(),
            packages: self.spec.packages.clone(),
            n_cgroups: 0,
        };
        let care = (&self.reaper, &self.watchdog);
        let zygote = Family::start(&self.forker, &spec, &self.filters, cgroup, care, &self.log)?;
        *guard = Some(Arc::clone(&zygote));
        Ok(zygote)
    }
}
