//! Into other functions: what they leave, what they know, and what is shared with them.

use serde_json::json;

use super::{NO_CHANGE, Probe, ask, play};
use crate::selftest::judge::refused;
use crate::selftest::plays::Play;

pub(super) static PROBES: &[Probe] = &[
    play(
        "tenants.leftovers",
        "find what another function left: files, queues, shared memory, sockets, processes",
        "tenant",
        Play::Leftovers,
    ),
    play("tenants.secret", "find the environment of another function", "tenant", Play::ForeignSecret),
    play(
        "tenants.memory",
        "find another function's bytes in memory and files that nobody has written",
        "tenant",
        Play::Memory,
    ),
    play(
        "tenants.random",
        "draw the same numbers as a sandbox that was forked from the same zygote",
        "draw-1",
        Play::Draws,
    ),
    ask(
        "tenants.shared-code",
        "change code that is shared: packages, the runtime, another's compiled modules",
        "files",
        |_| json!({"do": "tamper", "paths": ["/packages", "/handler", "/handler/f.py", "/runtime", "/runtime/zygote.py", "/runtime/_ol.so", "/usr/lib/python3", "/usr/lib/python3/dist-packages"]}),
        |answer| answer.said().map_or_else(|untried| untried, |said| refused(&said, NO_CHANGE)),
        None,
    ),
    play(
        "tenants.zygote",
        "use what a module may do while it is imported in its zygote against others",
        "imported",
        Play::Zygote,
    ),
];
