//! Configurations of the OpenLambda cluster of 2016 to 2018 (`config/template.json`), in today's words.

use serde_json::{Map, Value};

use super::{ConfigError, unsupported};

/// Old fields that say the same as a field of today.
const RENAMED: [(&str, &str); 3] =
    [("registry_dir", "registry"), ("reg_dir", "registry"), ("pkgs_dir", "Pkgs_dir")];

/// Old fields without a counterpart: caches, cgroup pools and registries that are gone.
const GONE: [&str; 19] = [
    "access_key",
    "benchmark_log",
    "cg_pool_size",
    "cluster_name",
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
    "startup_pkgs",
    "timing",
    "worker_id",
];

/// Whether there is anything to translate.
pub(super) fn is_classic(config: &Value) -> bool {
    let has = |name: &str| config.get(name).is_some();
    let kind = config.get("registry").and_then(Value::as_str);
    RENAMED.iter().any(|(old, _)| has(old))
        || GONE.iter().any(|old| has(old))
        || matches!(kind, Some("local" | "remote" | "olregistry"))
        || config.pointer("/sandbox_config/processes").is_some()
}

/// Put old names into today's, in place. Gives the old fields that have no effect any more.
pub(super) fn translate(config: &mut Value) -> Result<Vec<String>, ConfigError> {
    let Some(fields) = config.as_object_mut() else { return Ok(Vec::new()) };
    match fields.get("registry").and_then(Value::as_str) {
        Some("local") => drop(fields.remove("registry")),
        Some(kind @ ("remote" | "olregistry")) => {
            return unsupported(
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
    if let Some(processes) =
        fields.get_mut("sandbox_config").and_then(|old| old.as_object_mut()?.remove("processes"))
    {
        let limits = fields.entry("limits").or_insert_with(|| Value::Object(Map::new()));
        if let Some(limits) = limits.as_object_mut() {
            limits.entry("procs").or_insert(processes);
        }
    }
    Ok(GONE.into_iter().filter(|name| fields.remove(*name).is_some()).map(str::to_owned).collect())
}
