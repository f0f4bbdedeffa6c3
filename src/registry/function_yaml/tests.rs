//! What is read from `ol.yaml`, what is refused, and with which words.

use std::path::Path;

use super::triggers::TRIGGERS_MAX;
use super::*;

fn read(text: &str) -> Result<FunctionConfig, FunctionConfigError> {
    FunctionYaml::parse(text).map(|yaml| yaml.config)
}

fn name() -> FunctionName {
    "hi".parse().unwrap()
}

#[test]
fn a_function_without_a_file_serves_every_method() {
    let config = read("# nothing yet\n").unwrap();
    assert_eq!(
        config.to_registry_json(&name()).to_string(),
        serde_json::from_str::<Value>(
            r#"{"Triggers":{"HTTP":[{"Method":"*"}],"Cron":null,"Kafka":null},"Environment":{},"ReuseSandbox":true}"#
        )
        .unwrap()
        .to_string()
    );
    assert!(config.allows_method("PATCH"));
}

#[test]
fn methods_are_those_of_the_file() {
    let config = read("triggers:\n  http:\n    - method: GET\n    - method: POST\n").unwrap();
    assert_eq!(config.methods(), ["GET", "POST"]);
    assert!(!config.allows_method("PUT"));
    let config = read("triggers: {http: [{method: get}, {method: '*'}]}").unwrap();
    assert_eq!(config.methods(), ["GET", "*"]);
}

#[test]
fn what_is_wrong_is_said_in_words_of_an_author() {
    for (text, words) in [
        (
            "environment:\n  D: null\n",
            "environment.D: has no value: write a text, or leave the field out (line 2, column 6)",
        ),
        ("environment:\n  D:\n", "environment.D: has no value"),
        ("network: [none]\n", "one word is expected here, and something else was found"),
        ("environment: {A: 1}\nenvironment: {B: 2}\n", "'environment' is here a second time"),
        ("environment:\n  A: 1\n  A: 2\n", "'A' is here a second time"),
        ("triggers:\n  http: GET\n", "a list is expected here"),
        ("triggers:\n  http:\n    method: GET\n", "a list is expected here"),
        ("limits: 5\n", "fields are expected here"),
        ("limits: [16, 100]\n", "fields are expected here"),
        ("triggers:\n  cron:\n    - ['@daily']\n", "fields are expected here"),
        ("- {}\n", "fields are expected here"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("line "), "{text}: {error}");
    }
}

#[test]
fn triggers_without_anything_below_are_none() {
    let config = read("triggers:\nlimits:\nenvironment:\n").unwrap();
    assert_eq!(config, FunctionConfig::default());
}

#[test]
fn a_function_with_only_other_triggers_still_serves_http() {
    let text = "triggers:\n  cron:\n    - schedule: '*/5 * * * *'\n  kafka:\n    - bootstrap_servers: [localhost:9092]\n      topics: [a]\n      auto_offset_reset: earliest\n";
    let config = read(text).unwrap();
    assert_eq!(config.methods(), ["*"]);
    assert_eq!((config.cron().len(), config.kafka().len()), (1, 1));
    let json = config.to_registry_json(&name());
    assert_eq!(json["Triggers"]["Cron"], json!([{"Schedule": "*/5 * * * *"}]));
    assert_eq!(json["Triggers"]["Kafka"][0]["group_id"], "lambda-hi");
    assert_eq!(json["Triggers"]["Kafka"][0]["auto_offset_reset"], "earliest");
}

#[test]
fn variables_are_text_however_they_are_written() {
    let config =
        read("environment:\n  A: 8080\n  B: yes\n  C: 'x y'\n  D: 1.50\nreuse-sandbox: false\n").unwrap();
    let values: Vec<_> = config.environment.values().map(String::as_str).collect();
    assert_eq!(values, ["8080", "yes", "x y", "1.50"]);
    assert!(!config.reuse_sandbox());
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let error = read("triggers:\n  htpp:\n    - method: GET\n").unwrap_err().to_string();
    assert!(error.contains("htpp") && error.contains("line 2") && error.contains("column 3"), "{error}");
}

#[test]
fn an_unknown_key_is_an_error_at_every_level() {
    for text in [
        "trigger: {}",
        "triggers:\n  corn: []",
        "triggers:\n  http:\n    - methods: GET",
        "triggers:\n  cron:\n    - schedule: '@daily'\n      timezon: UTC",
        "triggers:\n  kafka:\n    - bootstrap_servers: [a]\n      topics: [b]\n      autooffset: latest",
        "limits:\n  mem: 1",
    ] {
        let error = read(text).unwrap_err().to_string();
        let line = text.lines().count();
        assert!(error.contains("unknown") && error.contains(&format!("line {line}")), "{text}: {error}");
    }
}

#[test]
fn a_kafka_trigger_has_a_dead_letter_topic_and_a_bound_to_its_calls() {
    let text = "triggers:\n  kafka:\n    - bootstrap_servers: ['localhost:9092', '[::1]:9093']\n      topics: [a, b]\n      dead_letter_topic: c\n      max_attempts: 7\n      group_id: mine\n";
    let config = read(text).unwrap();
    let source = &config.kafka()[0];
    assert_eq!(
        (source.calls_max, source.dead_letter_topic.as_deref(), source.from_earliest),
        (7, Some("c"), false)
    );
    let json = &config.to_registry_json(&name())["Triggers"]["Kafka"][0];
    assert_eq!((&json["group_id"], &json["dead_letter_topic"]), (&json!("lambda-hi"), &json!("c")));
    let trigger =
        |more: &str| format!("triggers: {{kafka: [{{bootstrap_servers: [a], topics: [b], {more}}}]}}");
    assert!(read(&trigger("")).is_ok());
    for more in ["dead_letter_topic: b", "dead_letter_topic: 'x y'", "max_attempts: 0", "max_attempts: 1001"]
    {
        assert!(read(&trigger(more)).is_err(), "{more}");
    }
    for text in [
        "triggers: {kafka: [{bootstrap_servers: ['a,b'], topics: [b]}]}",
        "triggers: {kafka: [{bootstrap_servers: ['SASL_SSL://a'], topics: [b]}]}",
        "triggers: {kafka: [{bootstrap_servers: [a], topics: ['^.*']}]}",
        "triggers: {kafka: [{bootstrap_servers: [a], topics: [b], auto_offset_reset: never}]}",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn a_broker_that_the_worker_does_not_allow_is_named_with_its_line() {
    let worker =
        |json: Value| Config::from_json(&json, Path::new("config.json"), Path::new("/ol")).unwrap().config;
    let text = "triggers:\n  kafka:\n    - bootstrap_servers: [Kafka]\n      topics: [a]\n    - topics: [b]\n      bootstrap_servers:\n        - kafka:9092\n        - evil:9092\n";
    let yaml = FunctionYaml::parse(text).unwrap();
    assert_eq!(yaml.check_brokers(&worker(json!({}))), Ok(()));
    let some = |brokers: &[&str]| worker(json!({ "kafka": { "brokers": brokers } }));
    assert_eq!(yaml.check_brokers(&some(&["kafka:9092", "evil"])), Ok(()));
    let refused = yaml.check_brokers(&some(&["kafka"])).unwrap_err().to_string();
    assert_eq!(
        refused,
        "ol.yaml: triggers.kafka[1].bootstrap_servers[1]: 'evil:9092' is not among kafka.brokers of this worker's config.json (line 8, column 11)"
    );
    assert!(yaml.check_brokers(&some(&[])).is_err());
    // Who reads nothing needs no broker.
    assert_eq!(FunctionYaml::parse("network: none").unwrap().check_brokers(&some(&[])), Ok(()));
}

#[test]
fn a_schedule_that_cannot_be_read_is_named_with_its_line() {
    let text = "triggers:\n  cron:\n    - schedule: '@daily'\n    - schedule: 0 25 * * *\n";
    let error = read(text).unwrap_err().to_string();
    assert!(error.contains("0 25 * * *") && error.contains("line 4"), "{error}");
    let many = "triggers:\n  cron:\n".to_owned() + &"    - schedule: '@daily'\n".repeat(TRIGGERS_MAX + 1);
    assert!(read(&many).unwrap_err().to_string().contains("more than"));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for text in [
        "limits: {mem_mb: 1}",
        "limits: {runtime_sec: 0}",
        "limits: {procs: -1}",
        "network: everything",
        "environment: {'A=B': c}",
        "environment: {'1A': c}",
        "triggers: {kafka: [{topics: [], bootstrap_servers: [a]}]}",
        "triggers: {http: [{method: ''}]}",
        "triggers: {http: [{method: 'G T'}]}",
        "- a\n- b",
        "a: b: c",
        "environment: {A: 1}\nenvironment: {A: 2}",
        "reuse-sandbox: maybe",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn yaml_bombs_are_refused() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let of = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", [of.as_str(); 9].join(","));
    }
    assert!(read(&laughs).is_err());
    assert!(read(&format!("environment: {}", "[".repeat(30_000))).is_err());
    assert!(read(&format!("environment: {{A: '{}'}}", "x".repeat(70_000))).is_err());
}

/// Each with the field, and the line and the column of its value.
#[test]
fn whatever_is_wrong_is_told_with_its_field_and_its_line() {
    let kafka =
        |more: &str| format!("triggers:\n  kafka:\n    - bootstrap_servers: [a]\n      topics: [b]\n{more}");
    let many = "triggers:\n  cron:\n".to_owned() + &"    - schedule: '@daily'\n".repeat(TRIGGERS_MAX + 1);
    for (text, said) in [
        // What is not understood.
        ("limits:\n  mem_mb: lots", "limits.mem_mb: a whole number is expected", "(line 2, column 11)"),
        ("limits:\n  mem_mb: -1", "limits.mem_mb: a whole number is expected", "(line 2, column 11)"),
        ("limits:\n  cpu_percent: 100\n  mem: 5", "limits.mem: unknown field `mem`", "(line 3, column 3)"),
        ("reuse-sandbox:\n  maybe", "reuse-sandbox: true or false is expected", "(line 2, column 3)"),
        ("\nnetwork: everything", "network: unknown variant `everything`", "(line 2, column 10)"),
        ("environment:\n  A: 1\n  A: 2", "environment: 'A' is here a second time", "(line 3, column 3)"),
        (
            "triggers:\n  cron:\n    - timezone: UTC",
            "triggers.cron[0]: missing field `schedule`",
            "(line 3, column 7)",
        ),
        (
            "triggers:\n  http:\n    - method: GET\n    - method: [PUT]",
            "triggers.http[1].method: one text is expected",
            "(line 4, column 15)",
        ),
        (&kafka("      max_attempts: x"), "triggers.kafka[0].max_attempts: ", "(line 5, column 21)"),
        (
            &kafka("      auto_offset_reset: never"),
            "triggers.kafka[0].auto_offset_reset: unknown variant `never`",
            "(line 5, column 26)",
        ),
        ("a: [", "", "line "),
        // What is understood, and cannot be meant.
        (
            "limits:\n\n  mem_mb: 1",
            "limits.mem_mb: is 1, and must be from 16 to 1048576",
            "(line 3, column 11)",
        ),
        ("limits: {procs: 4, runtime_sec: 0}", "limits.runtime_sec: is 0,", "(line 1, column 33)"),
        (
            "triggers:\n  http:\n    - method: GET\n    - method: G T",
            "triggers.http[1].method: 'G T' is not a method",
            "(line 4, column 15)",
        ),
        (
            "triggers:\n  cron:\n    - schedule: '@daily'\n    - schedule: 0 25 * * *",
            "triggers.cron[1].schedule: '0 25 * * *' is no schedule",
            "(line 4, column 17)",
        ),
        (
            "triggers:\n  cron:\n    - schedule: '@daily'\n      timezone: Mars/Base",
            "triggers.cron[0].timezone: 'Mars/Base' is no time zone",
            "(line 4, column 17)",
        ),
        (
            "triggers:\n  cron:\n    - timezone: UTC\n      schedule: TZ=UTC @daily",
            "triggers.cron[0].timezone: the schedule names UTC already",
            "(line 3, column 17)",
        ),
        (&many, "triggers.cron: has more than 64 schedules", "(line 3, column 5)"),
        (&kafka("      max_attempts: 0"), "triggers.kafka[0].max_attempts: is 0,", "(line 5, column 21)"),
        (
            &kafka("      dead_letter_topic: x y"),
            "triggers.kafka[0].dead_letter_topic: 'x y' is no topic's name",
            "(line 5, column 26)",
        ),
        (
            &kafka("      dead_letter_topic: b"),
            "triggers.kafka[0].dead_letter_topic: is one of topics",
            "(line 5, column 26)",
        ),
        (
            "triggers:\n  kafka:\n    - bootstrap_servers: [a]\n      topics:\n        - b\n        - ^c",
            "triggers.kafka[0].topics[1]: '^c' is no topic's name",
            "(line 6, column 11)",
        ),
        (
            "triggers:\n  kafka:\n    - topics: [b]\n      bootstrap_servers: ['a,b']",
            "triggers.kafka[0].bootstrap_servers[0]: 'a,b' is no broker",
            "(line 4, column 27)",
        ),
        (
            "triggers:\n  kafka:\n    - topics: []\n      bootstrap_servers: [a]",
            "triggers.kafka[0].topics: needs at least one topic",
            "(line 3, column 15)",
        ),
        (
            "environment:\n  A: 1\n  B.C-D: 2",
            "environment.B.C-D: 'B.C-D' is not a variable's name",
            "(line 3, column 10)",
        ),
        ("environment:\n  A: \"\\0\"", "environment.A: has a NUL character in it", "(line 2, column 6)"),
        // Through an alias it is where it is used.
        ("limits:\n  procs: &few 5\n  mem_mb: *few", "limits.mem_mb: is 5,", "(line 3, column 11)"),
    ]
    .map(|(text, field, place): (&str, &str, &str)| (text, (field, place)))
    {
        let error = read(text).unwrap_err().to_string();
        let is_said = error.starts_with(&format!("ol.yaml: {}", said.0)) && error.contains(said.1);
        assert!(is_said, "{text}\n{error}\n{said:?}");
    }
}

#[test]
fn what_this_worker_does_not_allow_is_told_with_its_line() {
    let worker = json!({ "mem_pool_mb": 1000, "limits": { "max_instances": 3 } });
    let worker = Config::from_json(&worker, Path::new("config.json"), Path::new("/ol")).unwrap().config;
    let refused = |text: &str| {
        let yaml = FunctionYaml::parse(text).unwrap();
        let error = yaml.limits(&worker).err().or_else(|| yaml.network(&worker).err());
        error.expect("the worker does not allow it").to_string()
    };
    assert_eq!(
        refused("limits:\n  mem_mb: 501\n"),
        "ol.yaml: limits.mem_mb: is 501, and this worker gives one sandbox at most 500 (line 2, column 11)"
    );
    assert_eq!(
        refused("limits:\n  procs: 5\n  min_warm: 4\n"),
        "ol.yaml: limits.min_warm: is 4, which is more than max_instances (3) (line 3, column 13)"
    );
    assert_eq!(
        refused("environment: {A: b}\nnetwork: host\n"),
        "ol.yaml: network: asks for more than network_max of this worker's config.json allows (line 2, column 10)"
    );
}

#[test]
fn no_limit_goes_beyond_the_ceiling_of_this_worker() {
    let worker = json!({
        "mem_pool_mb": 1000,
        "limits_max": {
            "procs": 20, "mem_mb": 100, "cpu_percent": 200, "runtime_sec": 60, "tmp_mb": 64, "max_instances": 64,
            "min_warm": 2,
        },
    });
    let worker = Config::from_json(&worker, Path::new("config.json"), Path::new("/ol")).unwrap().config;
    let limits = |text: &str| FunctionYaml::parse(text).unwrap().limits(&worker);
    for (name, most) in [
        ("procs", 20),
        ("mem_mb", 100),
        ("cpu_percent", 200),
        ("runtime_sec", 60),
        ("tmp_mb", 64),
        ("max_instances", 64),
        ("min_warm", 2),
    ] {
        limits(&format!("limits:\n  {name}: {most}\n")).unwrap();
        let error = limits(&format!("limits:\n  {name}: {}\n", most + 1)).unwrap_err().to_string();
        let said = format!(
            "ol.yaml: limits.{name}: is {}, and this worker allows at most {most} (limits_max.{name} of its config.json): ask for less, or have that raised (line 2, column {})",
            most + 1,
            name.len() + 5
        );
        assert_eq!(error, said);
    }
    limits("").unwrap();
}
