//! What is read from `config.json`, what is refused, and with which words.

use serde_json::json;

use super::*;

const OL: &str = "/srv/ol";

fn load(json: &Value) -> Result<Loaded, ConfigError> {
    Config::from_json(json, Path::new("/srv/ol/config.json"), Path::new(OL))
}

fn config(json: Value) -> Config {
    load(&json).unwrap().config
}

fn refused(json: Value) -> String {
    load(&json).unwrap_err().to_string()
}

#[test]
fn nothing_means_the_defaults() {
    let config = config(json!({}));
    assert_eq!(config.worker_dir, Path::new("/srv/ol/worker"));
    assert_eq!(config.registry_dir, Path::new("/srv/ol/registry"));
    assert_eq!((config.host.as_str(), config.port), ("localhost", 5000));
    let limits = config.limits;
    assert_eq!((limits.procs, limits.mem_mb, limits.cpu_percent, limits.swappiness), (10, 50, 100, 0));
    assert_eq!(limits.runtime, Duration::from_secs(30));
    let installer = config.installer_limits;
    assert_eq!((installer.mem_mb, installer.runtime, installer.procs), (250, Duration::from_secs(300), 100));
    assert_eq!((config.network, config.network_max), (Network::None, Network::Outbound));
    assert_eq!(config.body_bytes_max, 6 * 1024 * 1024);
    assert!(config.mem_pool_mb >= 500 && config.features.enable_seccomp && config.release_after.is_some());
    assert!(config.cgroup_root.starts_with("ol-ol-") && config.cgroup_root.ends_with("-sandboxes"));
}

#[test]
fn what_init_writes_means_the_defaults() {
    let written = Config::default_for(Path::new(OL), None);
    let loaded = load(&written).unwrap();
    assert_eq!(loaded.config, config(json!({})));
    assert!(loaded.ignored.is_empty(), "{:?}", loaded.ignored);
}

#[test]
fn a_template_supplies_defaults() {
    let template = json!({ "worker_port": 8080, "limits": { "mem_mb": 100 } });
    let written = Config::default_for(Path::new(OL), Some(&template));
    let config = config(written);
    assert_eq!((config.port, config.limits.mem_mb, config.limits.procs), (8080, 100, 10));
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    assert_eq!(Config::find_template(&below), None);
    std::fs::write(dir.path().join("a/template.json"), "{}").unwrap();
    assert_eq!(Config::find_template(&below), Some(dir.path().join("a/template.json")));
    std::fs::write(below.join("template.json"), "{}").unwrap();
    assert_eq!(Config::find_template(&below), Some(below.join("template.json")));
}

/// What its `worker init` writes, field by field.
fn of_openlambda() -> Value {
    json!({
        "worker_dir": "/srv/ol/worker", "worker_url": "localhost", "worker_port": "5000",
        "log_output": true, "sandbox": "sock", "server_mode": "lambda",
        "registry": "file:///srv/ol/registry?create_dir=true", "registry_cache_ms": 5000,
        "Pkgs_dir": "/srv/ol/lambda/packages", "pip_mirror": "", "mem_pool_mb": 31000,
        "import_cache_tree": "/srv/ol/default-zygotes-40.json", "sock_base_path": "/srv/ol/lambda",
        "sandbox_config": {}, "docker": { "runtime": "", "base_image": "ol-min" },
        "limits": { "procs": 10, "mem_mb": 50, "cpu_percent": 100, "swappiness": 0, "runtime_sec": 30 },
        "installer_limits": { "procs": 0, "mem_mb": 250, "cpu_percent": 0, "swappiness": 0, "runtime_sec": 300 },
        "features": { "reuse_cgroups": false, "import_cache": "tree", "downsize_paused_mem": true, "enable_seccomp": true },
        "trace": { "cgroups": false, "memory": false, "evictor": false, "package": false, "latency": false },
        "storage": { "root": "private", "scratch": "", "code": "" },
        "kafka": { "cache_enabled": true, "cache_size": 1024, "session_timeout_sec": 10, "heartbeat_interval_sec": 3, "poll_timeout_sec": 1 },
    })
}

#[test]
fn a_file_of_openlambda_is_read_as_it_is() {
    let loaded = load(&of_openlambda()).unwrap();
    let config = &loaded.config;
    assert_eq!(config.registry_dir, Path::new("/srv/ol/registry"));
    assert_eq!(config.packages_dir, Path::new("/srv/ol/lambda/packages"));
    assert_eq!(config.port, 5000);
    assert_eq!(config.import_cache_tree, Some(json!("/srv/ol/default-zygotes-40.json")));
    assert_eq!(loaded.ignored, ["sock_base_path"]);
    assert_eq!(config.kafka.session_timeout.as_secs(), 10);
    assert_eq!(config.kafka.heartbeat_interval.as_secs(), 3);
    // 0 stands for what is not set.
    let installer = &config.installer_limits;
    assert_eq!((installer.procs, installer.mem_mb, installer.cpu_percent), (100, 250, 100));
    assert_eq!((installer.swappiness, installer.runtime.as_secs()), (0, 300));
    let mut without_tree = of_openlambda();
    without_tree["import_cache_tree"] = "".into();
    assert_eq!(load(&without_tree).unwrap().config.import_cache_tree, None);
    // Its reader knows names in any case, and so do people who write them.
    let mut by_hand = of_openlambda();
    let path = by_hand.as_object_mut().unwrap().remove("sock_base_path").unwrap();
    by_hand["SOCK_base_path"] = path;
    assert_eq!(load(&by_hand).unwrap().ignored, ["SOCK_base_path"]);
}

#[test]
fn limits_of_the_installer_that_are_0_are_those_of_limits() {
    let config = config(json!({
        "limits": { "cpu_percent": 150, "swappiness": 7, "tmp_mb": 90, "procs": 200, "mem_mb": 300 },
        "installer_limits": { "procs": 0, "mem_mb": 0, "cpu_percent": 0, "swappiness": 0, "runtime_sec": 0, "tmp_mb": 0 },
    }));
    let installer = &config.installer_limits;
    assert_eq!((installer.procs, installer.mem_mb, installer.cpu_percent), (200, 300, 150));
    assert_eq!((installer.swappiness, installer.runtime.as_secs(), installer.tmp_mb), (7, 300, 90));
}

#[test]
fn what_has_no_effect_is_named_where_it_was_changed() {
    let mut changed = of_openlambda();
    changed.as_object_mut().unwrap().remove("sock_base_path");
    changed["docker"]["base_image"] = "mine".into();
    changed["storage"]["scratch"] = "memory".into();
    changed["sandbox_config"]["x"] = 1.into();
    changed["kafka"]["cache_size"] = 2.into();
    changed["features"]["reuse_cgroups"] = true.into();
    let expected = [
        "sandbox_config",
        "docker.base_image",
        "storage.scratch",
        "kafka.cache_size",
        "features.reuse_cgroups",
    ];
    assert_eq!(load(&changed).unwrap().ignored, expected);
}

#[test]
fn a_file_of_openlambda_of_2021_means_what_it_meant() {
    let loaded = load(&json!({
        "worker_dir": "/srv/ol/worker", "worker_port": "5000", "sandbox": "sock", "server_mode": "lambda",
        "registry": "/srv/ol/registry", "registry_cache_ms": 5000, "Pkgs_dir": "/srv/ol/lambda/packages",
        "pip_mirror": "", "mem_pool_mb": 31000, "import_cache_tree": "", "SOCK_base_path": "/srv/ol/lambda",
        "sandbox_config": {}, "docker_runtime": "",
        "limits": { "procs": 10, "mem_mb": 50, "cpu_percent": 100, "swappiness": 0, "max_runtime_default": 90, "installer_mem_mb": 600 },
        "features": { "reuse_cgroups": false, "import_cache": true, "downsize_paused_mem": true },
        "trace": { "cgroups": false, "memory": false, "evictor": false, "package": false },
        "storage": { "root": "private", "scratch": "", "code": "" },
    }))
    .unwrap();
    let config = &loaded.config;
    assert_eq!((config.limits.runtime.as_secs(), config.installer_limits.mem_mb), (90, 600));
    assert!(config.features.import_cache && config.import_cache_tree.is_none());
    assert!(loaded.ignored.contains(&"docker_runtime".to_owned()), "{:?}", loaded.ignored);
    assert!(!load(&json!({ "features": { "import_cache": false } })).unwrap().config.features.import_cache);
}

#[test]
fn what_a_script_of_2021_writes_into_a_file_of_today_counts() {
    let mut written = Config::default_for(Path::new(OL), None);
    for (object, field, value) in [
        ("limits", "installer_mem_mb", 251),
        ("limits", "max_runtime_default", 3600),
        ("limits", "procs", 32),
    ] {
        written[object][field] = value.into();
    }
    let config = config(written);
    assert_eq!((config.limits.runtime.as_secs(), config.installer_limits.mem_mb), (3600, 251));
    assert_eq!((config.limits.procs, config.installer_limits.runtime.as_secs()), (32, 300));
}

#[test]
fn what_a_script_of_openlambda_changes_is_in_the_file_that_init_writes() {
    let written = Config::default_for(Path::new(OL), None);
    // A script that finds no such field takes it for a slip of the pen, and ends.
    for field in [
        "sandbox",
        "server_mode",
        "registry",
        "registry_cache_ms",
        "mem_pool_mb",
        "import_cache_tree",
        "Pkgs_dir",
        "pip_mirror",
        "limits",
        "installer_limits",
        "features",
        "trace",
        "worker_dir",
        "worker_url",
        "worker_port",
        "log_output",
    ] {
        assert!(written.get(field).is_some(), "{field}");
    }
    // And those inside of them: without a counterpart, or seldom changed, but read.
    for (object, fields) in of_openlambda().as_object().unwrap() {
        for field in fields.as_object().into_iter().flatten().map(|(field, _)| field) {
            let is_inherited =
                object == "installer_limits" && !["mem_mb", "runtime_sec"].contains(&field.as_str());
            assert!(is_inherited || written[object].get(field).is_some(), "{object}.{field}");
        }
    }
}

#[test]
fn a_reader_of_kafka_gives_signs_of_life_before_it_is_held_dead() {
    assert!(load(&json!({ "kafka": { "session_timeout_sec": 6, "heartbeat_interval_sec": 2 } })).is_ok());
    assert!(refused(json!({ "kafka": { "session_timeout_sec": 0 } })).contains("kafka.session_timeout_sec"));
    assert!(
        refused(json!({ "kafka": { "session_timeout_sec": 3 } })).contains("kafka.heartbeat_interval_sec")
    );
    assert!(refused(json!({ "kafka": { "heartbeat_interval_sec": 0 } })).contains("heartbeat_interval_sec"));
}

#[test]
fn an_unknown_field_is_named_with_its_file() {
    let text = refused(json!({ "worker_dirr": "/x" }));
    assert!(text.contains("worker_dirr") && text.contains("/srv/ol/config.json"), "{text}");
    assert!(refused(json!({ "limits": { "mem": 1 } })).contains("`mem`"));
    assert!(refused(json!({ "trace": { "x": true } })).contains("`x`"));
    assert!(refused(json!({ "limits": { "mem_mb": "50" } })).contains("invalid type"));
    assert!(refused(json!([])).contains("config.json"));
}

#[test]
fn a_value_of_the_wrong_type_is_named_by_its_field() {
    let path = "/srv/ol/config.json: ";
    for (json, words) in [
        (
            json!({ "limits": { "mem_mb": "5" } }),
            "limits.mem_mb: invalid type: string \"5\", expected a whole number",
        ),
        (json!({ "limits": { "mem": 5 } }), "limits.mem: unknown field `mem`"),
        (json!({ "dns": ["1.1.1.1", "x"] }), "dns[1]: invalid IP address syntax"),
        (json!({ "worker_port": true }), "worker_port: must be a port number from 0 to 65535"),
        (json!({ "worker_port": 70000 }), "worker_port: must be a port number from 0 to 65535"),
        (json!({ "network": "all" }), "network: unknown variant `all`"),
        (json!({ "log_output": 1, "reg_dir": "/old" }), "log_output: invalid type"),
        (json!({ "kafka": { "brokers": [1] } }), "kafka.brokers[0]: invalid type"),
    ] {
        let text = refused(json.clone());
        assert!(text.starts_with(&format!("{path}{words}")), "{json}: {text}");
    }
    assert!(refused(json!([])).starts_with("/srv/ol/config.json: a configuration is an object"));
}

#[test]
fn what_is_not_done_here_is_refused() {
    for (json, words) in [
        (json!({ "sandbox": "docker" }), "sandbox: is 'docker'"),
        (json!({ "server_mode": "none" }), "server_mode: is 'none'"),
        (json!({ "registry": "ftp://example.org/r" }), "s3://"),
        (json!({ "registry": "remote" }), "registry: is 'remote': write a path, file:///path, or a store"),
        (json!({ "features": { "import_cache": "forest" } }), "features.import_cache"),
        (
            json!({ "mem_pool_mb": 1000, "import_cache_mb": 1001 }),
            "import_cache_mb: is 1001, and must be at most 1000",
        ),
    ] {
        assert!(refused(json.clone()).contains(words), "{json}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (json, words) in [
        (json!({ "worker_dir": "relative" }), "worker_dir"),
        (json!({ "worker_dir": "/a/../b" }), "worker_dir"),
        (json!({ "registry": "relative" }), "registry"),
        (json!({ "worker_port": "http" }), "worker_port"),
        (json!({ "worker_port": "70000" }), "worker_port"),
        (json!({ "mem_pool_mb": 499 }), "mem_pool_mb: is 499, and must be at least 500"),
        (json!({ "limits": { "procs": 0 } }), "limits.procs: is "),
        (json!({ "limits": { "mem_mb": 4 } }), "limits.mem_mb: is "),
        (json!({ "limits": { "cpu_percent": 0 } }), "limits.cpu_percent: is "),
        (json!({ "limits": { "swappiness": 101 } }), "limits.swappiness: is "),
        (json!({ "limits": { "runtime_sec": 0 } }), "limits.runtime_sec: is "),
        (json!({ "limits": { "tmp_mb": 0 } }), "limits.tmp_mb: is "),
        (json!({ "limits": { "max_instances": 0 } }), "limits.max_instances: is "),
        (json!({ "limits": { "max_instances": 1, "min_warm": 2 } }), "limits.min_warm: is "),
        (
            json!({ "limits": { "runtime_sec": 86_401 } }),
            "limits.runtime_sec: is 86401, and must be at most 86400",
        ),
        (json!({ "installer_limits": { "runtime_sec": 86_401 } }), "installer_limits.runtime_sec: is "),
        (json!({ "limits": { "max_instances": 1_000_001 } }), "limits.max_instances: is "),
        (
            json!({ "limits_max": { "procs": 9 } }),
            "limits.procs: is 10, and must be at most 9, the limits_max.procs",
        ),
        (
            json!({ "limits_max": { "swappiness": 0 }, "limits": { "swappiness": 1 } }),
            "limits.swappiness: is 1",
        ),
        (json!({ "limits_max": { "proc": 9 } }), "limits_max"),
        (json!({ "limits_max": 9 }), "limits_max: is not an object"),
        (json!({ "grace_sec": 86_401 }), "grace_sec: is 86401, and must be at most 86400"),
        (json!({ "queue": { "wait_ms": 86_400_001 } }), "queue.wait_ms: is "),
        (json!({ "queue": { "length": 1_000_001 } }), "queue.length: is "),
        (json!({ "standbys": 1_000_001 }), "standbys: is "),
        (json!({ "http_threads": 100_000 }), "http_threads: is "),
        (
            json!({ "mem_pool_mb": 1_u64 << 44 }),
            "mem_pool_mb: is 17592186044416, and must be at most 1073741824",
        ),
        (json!({ "import_cache_mb": 1_u64 << 44 }), "import_cache_mb: is "),
        (
            json!({ "allowed_hosts": ["a", "http://b"] }),
            "allowed_hosts[1]: is 'http://b': write the name of a host",
        ),
        (json!({ "allowed_hosts": ["."] }), "allowed_hosts[0]: is '.'"),
        (json!({ "network": "host" }), "network_max"),
        (json!({ "network": "all" }), "all"),
        (json!({ "dns": ["nameserver"] }), "IP"),
        (json!({ "max_body_mb": 0 }), "max_body_mb"),
        (json!({ "max_code_mb": 0 }), "max_code_mb"),
        (json!({ "registry_cache_ms": 0 }), "registry_cache_ms"),
        (json!({ "python": "../python3" }), "python"),
        (json!({ "python": "/" }), "python"),
        (json!({ "uid_base": 0 }), "uid_base"),
        (json!({ "uid_base": 4_000_000_000_u32 }), "uid_base"),
        (json!({ "cgroup_root": "../x" }), "cgroup_root"),
        (json!({ "cgroup_root": "cgroup.procs" }), "cgroup_root"),
    ] {
        let text = refused(json.clone());
        assert!(text.contains(words), "{json}: {text}");
    }
}

#[test]
fn values_are_meant_in_their_units() {
    let config = config(json!({
        "registry": "/r/", "worker_port": 0, "queue": { "length": 5, "wait_ms": 250 }, "max_body_mb": 1,
        "release_after_s": 0, "python": "/usr/bin/python3.11", "network": "host", "network_max": "host",
        "dns": ["1.1.1.1", "::1"], "http_threads": 3, "cgroup_root": "mine", "import_cache_tree": "",
    }));
    assert_eq!((config.registry_dir.as_path(), config.port), (Path::new("/r"), 0));
    assert_eq!(config.queue, Queue { length_max: 5, wait_max: Duration::from_millis(250) });
    assert_eq!((config.release_after, config.python), (None, Some(PathBuf::from("usr/bin/python3.11"))));
    assert_eq!((config.dns.len(), config.n_http_threads, config.cgroup_root.as_str()), (2, 3, "mine"));
    assert_eq!((config.body_bytes_max, config.import_cache_tree), (1024 * 1024, None));
}

#[test]
fn what_is_as_good_as_never_is_taken_for_never() {
    let config = config(json!({
        "freeze_after_ms": u64::MAX, "release_after_s": 999_999_999_u64, "registry_cache_ms": u64::MAX,
        "packages_max_mb": u64::MAX, "allowed_hosts": ["OL.Example.org."],
    }));
    assert_eq!(config.release_after, Some(Duration::from_secs(999_999_999)));
    assert_eq!((config.freeze_after, config.registry_poll), (NEVER, NEVER));
    assert_eq!(config.packages_bytes_max, 1 << 50);
    assert_eq!(config.allowed_hosts, ["ol.example.org"]);
}

/// What the worker works out from a configuration: nothing of it panics, or comes out as too little.
fn reckon(config: &Config) {
    let now = std::time::Instant::now();
    let ends = [config.grace, config.limits.runtime, config.installer_limits.runtime, config.queue.wait_max];
    let pauses = [Some(config.freeze_after), config.release_after, Some(config.registry_poll)];
    for after in ends.into_iter().chain(pauses.into_iter().flatten()) {
        // As the worker does: some add a little, and look at an instant that may be a while ahead.
        let until = now + after;
        assert!(tokio::time::Instant::from_std(until) + CALL_TIME_MAX > tokio::time::Instant::now());
        assert!(u64::try_from(after.as_millis()).is_ok());
    }
    let bytes = |mb: u64| mb.checked_mul(MIB).filter(|bytes| bytes >> 20 == mb).unwrap();
    assert!(bytes(config.mem_pool_mb) > 0);
    assert!(bytes(config.import_cache_mb) <= bytes(config.mem_pool_mb));
    for limits in [&config.limits, &config.installer_limits] {
        let memory = bytes(u64::from(limits.mem_mb));
        assert!(memory.checked_mul(2).is_some() && bytes(u64::from(limits.tmp_mb)) > 0);
        // In units of the processor quota (`cpu.max`).
        assert!(u64::from(limits.cpu_percent).checked_mul(100_000).is_some());
    }
    let pool = config.pool_limits(&config.limits);
    (pool.max_instances + pool.queue_length_max).checked_mul(1 << 20).unwrap();
    assert!(config.n_standbys.checked_mul(2).is_some() && config.n_http_threads > 0);
    for sum in [
        config.registry_cache_bytes_max,
        config.packages_bytes_max,
        config.code_bytes_max,
        config.log_bytes_max,
    ] {
        assert!(sum >= MIB && sum.checked_mul(1_000).is_some());
    }
}

proptest::proptest! {
    #[test]
    fn no_number_in_a_configuration_that_is_accepted_makes_anything_overflow(
        numbers in proptest::collection::vec(any_number(), NUMBERS.len()),
        is_there in proptest::collection::vec(proptest::prelude::any::<bool>(), NUMBERS.len()),
    ) {
        let mut json = json!({});
        for ((name, number), _) in NUMBERS.iter().zip(numbers).zip(is_there).filter(|(_, is_there)| *is_there) {
            let place = match name.split_once('.') {
                Some((object, field)) => &mut json[object][field],
                None => &mut json[*name],
            };
            *place = number.into();
        }
        if let Ok(loaded) = load(&json) {
            reckon(&loaded.config);
        }
    }
}

/// Each alone, so that nothing else is the reason for a refusal.
#[test]
fn the_largest_of_each_number_is_refused_or_can_be_reckoned_with() {
    for name in NUMBERS {
        for number in (0..64).flat_map(|bits| [(1_u64 << bits) - 1, 1 << bits]).chain([u64::MAX]) {
            let json = match name.split_once('.') {
                Some((object, field)) => json!({ object: { field: number } }),
                None => json!({ name: number }),
            };
            if let Ok(loaded) = load(&json) {
                reckon(&loaded.config);
            }
        }
    }
}

const NUMBERS: [&str; 31] = [
    "registry_cache_ms",
    "registry_cache_mb",
    "packages_max_mb",
    "mem_pool_mb",
    "max_body_mb",
    "max_code_mb",
    "freeze_after_ms",
    "release_after_s",
    "standbys",
    "log_max_mb",
    "http_threads",
    "uid_base",
    "grace_sec",
    "import_cache_mb",
    "queue.length",
    "queue.wait_ms",
    "limits.procs",
    "limits.mem_mb",
    "limits.cpu_percent",
    "limits.swappiness",
    "limits.runtime_sec",
    "limits.tmp_mb",
    "limits.max_instances",
    "limits.min_warm",
    "limits_max.procs",
    "limits_max.runtime_sec",
    "installer_limits.mem_mb",
    "installer_limits.tmp_mb",
    "installer_limits.runtime_sec",
    "kafka.session_timeout_sec",
    "kafka.heartbeat_interval_sec",
];

/// Small ones, which are accepted, and those at which something overflows.
fn any_number() -> impl proptest::strategy::Strategy<Value = u64> {
    use proptest::prelude::*;
    prop_oneof![
        0..100_u64,
        (0..64_u32, 0..3_u64).prop_map(|(bits, more)| (1_u64 << bits).wrapping_add(more).wrapping_sub(1)),
        any::<u64>()
    ]
}

#[test]
fn workers_of_the_same_name_have_cgroups_of_their_own() {
    let name =
        |dir: &str| Config::from_json(&json!({}), Path::new("c"), Path::new(dir)).unwrap().config.cgroup_root;
    assert_ne!(name("/a/default-ol"), name("/b/default-ol"));
    for dir in ["/", "/.hidden", "/with space/x y", "/\u{fc}"] {
        let name = name(dir);
        assert!(
            name.starts_with("ol-") && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'),
            "{name}"
        );
    }
}

fn with_options(json: Value, options: &str) -> Result<Document, ConfigError> {
    Document::made(json, Path::new("/srv/ol/config.json")).with_options(options)
}

#[test]
fn options_are_laid_over() {
    let json = json!({ "limits": { "procs": 3 } });
    let options = "limits.mem_mb=100,features.enable_seccomp=false,worker_port=80,registry_cache_ms=90,python=/usr/bin/x,mem_pool_mb=600,network=outbound";
    let json = with_options(json, options).unwrap().value;
    assert_eq!(json["worker_port"], "80");
    let config = config(json);
    assert_eq!((config.limits.procs, config.limits.mem_mb, config.port), (3, 100, 80));
    assert!(!config.features.enable_seccomp);
    assert_eq!((config.mem_pool_mb, config.network), (600, Network::Outbound));
    // The last one counts, as in OpenLambda; and none are none.
    assert_eq!(with_options(json!({}), "worker_url=a,worker_url=b").unwrap().value["worker_url"], "b");
    assert_eq!(with_options(json!({ "worker_url": "a" }), "").unwrap().value, json!({ "worker_url": "a" }));
}

#[test]
fn a_wrong_option_is_named() {
    for options in [
        "nope=1",
        "limits.nope=1",
        "limits.mem_mb",
        "limits=1",
        "limits.mem_mb=lots",
        "features.enable_seccomp=maybe",
        "dns=1.1.1.1",
        "limits.mem_mb.x=1",
        "=1",
    ] {
        let error = with_options(json!({}), &format!("worker_url=b,{options}")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("invalid option '{options}': ")), "{error}");
    }
    let error = with_options(json!({ "limits": 1 }), "limits.mem_mb=20").unwrap_err().to_string();
    assert!(error.contains("is not an object"), "{error}");
}

#[test]
fn a_comma_too_many_is_not_passed_over() {
    for options in
        [",", " ", "worker_url=a,", ",worker_url=a", "worker_url=a,,log_output=true", "worker_url=a, "]
    {
        let error = with_options(json!({}), options).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("invalid option '{options}': there is a comma too many")),
            "{error}"
        );
    }
}

#[test]
fn what_an_option_says_is_told_as_that_of_the_option() {
    let said = |options: &str| {
        let document = with_options(json!({ "limits": { "procs": 0 } }), options).unwrap();
        Config::from_document(&document, Path::new(OL)).unwrap_err().to_string()
    };
    assert_eq!(said("limits.procs=0"), "invalid option 'limits.procs': is 0, and must be from 1 to 32768");
    assert!(said("limits.procs=1,mem_pool_mb=2").starts_with("invalid option 'mem_pool_mb': is 2, and"));
    assert!(said("limits.procs=-1").starts_with("invalid option 'limits.procs': invalid value"));
    let secret = said("limits.procs=1,registry=https://me:geheim@host/x");
    assert!(secret.starts_with("invalid option 'registry': is 'https://…@host/x'"), "{secret}");
    assert!(said("worker_url=x").starts_with("/srv/ol/config.json: limits.procs: is 0"));
}

#[test]
fn the_cluster_of_2018_is_understood() {
    let loaded = load(&json!({
        "registry": "local", "registry_dir": "/c/registry", "pkgs_dir": "/c/packages", "worker_port": "8080",
        "sandbox": "sock", "cg_pool_size": 10, "max_runners": 5, "handler_cache_size": 1024, "startup_pkgs": [],
        "sandbox_config": { "processes": 7, "db": "rethinkdb" }, "benchmark_log": "", "timing": true,
    }))
    .unwrap();
    assert_eq!(loaded.config.registry_dir, Path::new("/c/registry"));
    assert_eq!(loaded.config.packages_dir, Path::new("/c/packages"));
    assert_eq!((loaded.config.port, loaded.config.limits.procs), (8080, 7));
    for name in ["cg_pool_size", "max_runners", "timing", "sandbox_config"] {
        assert!(loaded.ignored.iter().any(|ignored| ignored == name), "{name}: {:?}", loaded.ignored);
    }
    assert_eq!(config(json!({ "reg_dir": "/old" })).registry_dir, Path::new("/old"));
}

/// What is said of a file with this text.
fn said_of(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    let loaded = Document::read(&path).and_then(|document| Config::from_document(&document, Path::new(OL)));
    let said = loaded.unwrap_err().to_string();
    said.strip_prefix(&format!("{}: ", path.display())).expect("the file is named first").to_owned()
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Document::read(&dir.path().join("config.json")).unwrap_err().to_string().contains("cannot read"));
    let path = dir.path().join("old.json");
    std::fs::write(&path, r#"{ "reg_dir": "/c", "limits": { "procs": 4 } }"#).unwrap();
    let document = Document::read(&path).unwrap();
    assert_eq!(Config::from_document(&document, Path::new(OL)).unwrap().config.limits.procs, 4);
}

#[test]
fn whatever_is_wrong_in_a_file_is_told_with_its_field_and_its_line() {
    for (text, field, place) in [
        // What is not understood.
        ("{ not json", "key must be a string", "(line 1, column 3)"),
        ("{}\n {}", "trailing characters", "(line 2, column 2)"),
        ("[\n]", "a configuration is an object", ""),
        ("{\n  \"limits\": { \"procs\": tru }\n}", "limits.procs: expected ident", "(line 2, column "),
        (
            "{\n  \"worker_url\": \"a\",\n  \"limitz\": {}\n}",
            "limitz: unknown field `limitz`",
            "(line 3, column 13)",
        ),
        (
            "{\n  \"limits\": { \"procs\": true }\n}",
            "limits.procs: invalid type: boolean `true`",
            "(line 2, column 24)",
        ),
        (
            "{\"limits\": {\n\"procs\": 3,\n\"procs\": 4}}",
            "limits: 'procs' is here a second time",
            "(line 3, column 7)",
        ),
        ("{\"dns\": [\"1.1.1.1\",\n \"x\"]}", "dns[1]: invalid IP address", "(line 2, column 2)"),
        ("{\"queue\":\n [5, 6]}", "queue: is not an object; write", "(line 2, column 2)"),
        ("{\"limits\":\n 5}", "limits: is not an object; write", "(line 2, column 2)"),
        // What is understood, and cannot be meant.
        (
            "{\n\n  \"limits\": { \"procs\": 0 } }",
            "limits.procs: is 0, and must be from 1 to 32768",
            "(line 3, column 24)",
        ),
        ("{\n \"worker_port\":\n  \"http\"}", "worker_port: is 'http', and must be", "(line 3, column 3)"),
        ("{\n \"mem_pool_mb\": 499}", "mem_pool_mb: is 499", "(line 2, column 17)"),
        (
            "{\n \"kafka\": {\"brokers\": [\"a\", \"b,c\"]}}",
            "kafka.brokers[1]: 'b,c' is no broker",
            "(line 2, column 29)",
        ),
        (
            "{\n \"installer_limits\": {\"mem_mb\": 4}}",
            "installer_limits.mem_mb: is 4",
            "(line 2, column 33)",
        ),
        ("{\n \"registry\": \"ftp://x\"}", "registry: is 'ftp://x'", "(line 2, column 14)"),
        // Under the name that it has in the file.
        ("{\n \"reg_dir\": \"x\"}", "reg_dir: is 'x', and must be an absolute path", "(line 2, column 13)"),
        (
            "{\"limits\": { \"runtime_sec\": 5,\n \"max_runtime_default\": 0}}",
            "limits.max_runtime_default: is 0",
            "(line 2, column 25)",
        ),
        (
            "{\n \"sandbox_config\": {\"processes\": 0}}",
            "sandbox_config.processes: is 0",
            "(line 2, column 34)",
        ),
        (
            "{\n \"sandbox_config\": {\"processes\": 9}, \"limits\": {\"procs\": 0}}",
            "limits.procs: is 0",
            "(line 2, column 58)",
        ),
        // What is only missing stands nowhere.
        ("{\"limits\": {\"mem_mb\": 99999999}}", "mem_pool_mb: is ", "limits.mem_mb and"),
    ] {
        let said = said_of(text);
        assert!(said.starts_with(field) && said.contains(place), "{text}\n{said}");
    }
}

#[test]
fn null_is_as_if_it_were_not_there() {
    let nulls = |value: &Value| -> Value {
        let names = value.as_object().unwrap().keys();
        Value::Object(names.map(|name| (name.clone(), Value::Null)).collect())
    };
    let defaults = serde_json::to_value(RawConfig::default()).unwrap();
    let loaded = load(&nulls(&defaults)).unwrap();
    assert_eq!(loaded.config, config(json!({})));
    assert!(loaded.ignored.is_empty(), "{:?}", loaded.ignored);
    // And inside of objects, and of those of earlier years.
    for (name, value) in defaults.as_object().unwrap() {
        if value.as_object().is_some_and(|fields| !fields.is_empty()) {
            assert_eq!(config(json!({ name: nulls(value) })), config(json!({})), "{name}");
        }
    }
    let old = json!({
        "registry_dir": null, "cg_pool_size": null, "sandbox_config": { "processes": null },
        "limits": { "max_runtime_default": null, "installer_mem_mb": null },
    });
    assert_eq!(load(&old).unwrap(), load(&json!({})).unwrap());
    let drawn = json!({ "import_cache_tree": { "packages": null, "children": null } });
    assert!(load(&drawn).is_ok());
    // A name that means nothing is none with null either; and an entry of a list is no field.
    assert!(refused(json!({ "worker_dirr": null })).contains("worker_dirr: unknown field"));
    assert!(refused(json!({ "limits": { "mem": null } })).contains("limits.mem: unknown field"));
    assert!(refused(json!({ "dns": [null] })).contains("dns[0]: "));
    // In a template it leaves the default in its place.
    let template = json!({ "limits": null, "queue": { "length": null, "wait_ms": 5 } });
    let written = Config::default_for(Path::new(OL), Some(&template));
    assert_eq!(
        (&written["limits"]["procs"], &written["queue"]),
        (&json!(10), &json!({ "length": 1024, "wait_ms": 5 }))
    );
}

/// Every field that is written in `config.json` or `ol.yaml` is in the reference.
#[test]
fn every_field_is_documented() {
    fn names(json: &Value, found: &mut Vec<String>) {
        for (name, value) in json.as_object().into_iter().flatten() {
            found.push(name.clone());
            names(value, found);
        }
    }
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let json = serde_json::to_value(RawConfig::default()).unwrap();
    let mut found = Vec::new();
    for (name, value) in json.as_object().unwrap() {
        found.push(name.clone());
        // Of what has no effect, the names inside are not of interest.
        if !["docker", "storage"].contains(&name.as_str()) {
            names(value, &mut found);
        }
    }
    for name in found {
        let is_there = [format!("`{name}"), format!(".{name}`")].iter().any(|text| reference.contains(text));
        assert!(is_there, "{name} is missing in docs/CONFIG.md");
    }
}

/// And every field of `config.json` that is in the reference exists.
#[test]
fn every_documented_field_exists() {
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let (_, tables) = reference.split_once("\n## config.json\n").unwrap();
    let (tables, _) = tables.split_once("\n### Fields of OpenLambda").unwrap();
    let json = serde_json::to_value(RawConfig::default()).unwrap();
    let rows: Vec<_> = tables.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(!rows.is_empty(), "the tables have rows that begin with a field's name");
    for row in rows {
        let names: Vec<_> = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        // `.memory` behind `trace.cgroups` is short for `trace.memory`.
        let group = names[0].split('.').next().unwrap();
        for name in names {
            let name = if name.starts_with('.') { format!("{group}{name}") } else { name.to_owned() };
            let pointer = format!("/{}", name.replace('.', "/"));
            assert!(json.pointer(&pointer).is_some(), "docs/CONFIG.md has {name}, which does not exist");
        }
    }
}
