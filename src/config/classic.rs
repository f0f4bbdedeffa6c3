//! Configurations of the OpenLambda cluster of 2016 to 2018 (`config/template.json`), and of the worker of 2019 to 2022, in today's
//! words.

use serde_json::{Map, Value};

use super::{Wrong, wrong};
use crate::field::FieldPath;

/// Old fields that say the same as a field of today.
const RENAMED: [(&str, &str); 3] =
    [("registry_dir", "registry"), ("reg_dir", "registry"), ("pkgs_dir", "Pkgs_dir")];

/// Fields of 2019 to 2022 that say the same as another of today: the object that each is in, and its name. A file has both only when a
/// script of that time has changed one of today's, so what the older says is what is wanted.
const MOVED: [[(&str, &str); 2]; 2] = [
    [("limits", "max_runtime_default"), ("limits", "runtime_sec")],
    [("limits", "installer_mem_mb"), ("installer_limits", "mem_mb")],
];

/// Is `limits.procs` today, unless that is given too.
const PROCESSES: [&str; 2] = ["sandbox_config", "processes"];

/// Old fields without a counterpart: caches, cgroup pools and registries that are gone.
const GONE: [&str; 22] = [
    "access_key",
    "benchmark_log",
    "cg_pool_size",
    "cluster_name",
    "docker_runtime",
    "handler_cache_mb",
    "handler_cache_size",
    "import_cache_dir",
    "import_cache_size",
    "index_host",
    "index_port",
    "max_runners",
    "reg_cluster",
    "registry_access_key",
    "registry_secret_key",
    "registry_server",
    "secret_key",
    "skip_pull_existing",
    "sock_base_path",
    "startup_pkgs",
    "timing",
    "worker_id",
];

/// Whether it is the way to a field of then.
pub(super) fn is_name(path: &[&str]) -> bool {
    match path {
        [name] => RENAMED.iter().any(|(old, _)| old == name) || GONE.contains(name),
        [object, name] => {
            MOVED.iter().any(|[old, _]| *old == (*object, *name)) || path == PROCESSES.as_slice()
        }
        _ => false,
    }
}

/// What a field may be called in a file, the name that counts first.
pub(super) fn names_of(field: &FieldPath) -> Vec<FieldPath> {
    let path = |object: &str, name: &str| FieldPath::from(object).name(name);
    let moved = MOVED.iter().filter(|[_, (object, name)]| path(object, name) == *field);
    let mut names: Vec<_> = moved.map(|[(object, name), _]| path(object, name)).collect();
    names.push(field.clone());
    let renamed = RENAMED.iter().filter(|(_, new)| FieldPath::from(*new) == *field);
    names.extend(renamed.map(|(old, _)| FieldPath::from(*old)));
    if *field == path("limits", "procs") {
        names.push(path(PROCESSES[0], PROCESSES[1]));
    }
    names
}

/// Put old names into today's, in place. Gives the old fields that have no effect any more.
pub(super) fn translate(config: &mut Value) -> Result<Vec<String>, Wrong> {
    let Some(fields) = config.as_object_mut() else { return Ok(Vec::new()) };
    match fields.get("registry").and_then(Value::as_str) {
        Some("local") => drop(fields.remove("registry")),
        Some(kind @ ("remote" | "olregistry")) => {
            return wrong(
                "registry",
                format!(
                    "is '{kind}': write a path, file:///path, or a store: s3://…, gs://…, az://…, https://…"
                ),
            );
        }
        _ => {}
    }
    for (old, new) in RENAMED {
        if let Some(value) = fields.remove(old) {
            fields.entry(new).or_insert(value);
        }
    }
    for [(object, name), (new_object, new_name)] in MOVED {
        let old = fields.get_mut(object).and_then(|object| object.as_object_mut()?.remove(name));
        let new =
            old.is_some().then(|| fields.entry(new_object).or_insert_with(|| Value::Object(Map::new())));
        if let (Some(old), Some(new)) = (old, new.and_then(Value::as_object_mut)) {
            new.insert(new_name.to_owned(), old);
        }
    }
    if let Some(cache) = fields.get_mut("features").and_then(|features| features.get_mut("import_cache"))
        && let Some(is_on) = cache.as_bool()
    {
        *cache = if is_on { "tree" } else { "" }.into();
    }
    if let Some(processes) =
        fields.get_mut(PROCESSES[0]).and_then(|old| old.as_object_mut()?.remove(PROCESSES[1]))
        && !processes.is_null()
    {
        let limits = fields.entry("limits").or_insert_with(|| Value::Object(Map::new()));
        if let Some(limits) = limits.as_object_mut() {
            limits.entry("procs").or_insert(processes);
        }
    }
    Ok(GONE.into_iter().filter(|name| fields.remove(*name).is_some()).map(str::to_owned).collect())
}
