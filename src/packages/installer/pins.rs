//! What a resolver's answer comes to: each package pinned, with its archives' hashes, one a line.

use std::collections::BTreeMap;

use actors::world::PackageError;
use serde::Deserialize;

/// The lines of `uv pip compile`: continued ones are joined.
pub(super) fn of_lock(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '-'])).collect()
}

/// What pip would install (its installation report, version 1).
pub(super) fn of_report(text: &str) -> Result<Vec<String>, PackageError> {
    #[derive(Deserialize)]
    struct Report {
        install: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
        download_info: Download,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
        version: String,
    }
    #[derive(Deserialize)]
    struct Download {
        #[serde(default)]
        archive_info: Archive,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Archive {
        hash: Option<String>,
        hashes: BTreeMap<String, String>,
    }
    let report: Report = serde_json::from_str(text)
        .map_err(|error| PackageError::Failed(format!("pip's report is not understood: {error}")))?;
    let pin = |item: Item| {
        let Metadata { name, version } = item.metadata;
        let Archive { hash, hashes } = item.download_info.archive_info;
        let hash = hashes
            .get("sha256")
            .map(|hash| format!("sha256:{hash}"))
            .or(hash.map(|hash| hash.replacen('=', ":", 1)));
        let hash = hash.map(|hash| format!(" --hash={hash}")).unwrap_or_default();
        format!("{name}=={version}{hash}")
    };
    let mut pins: Vec<String> = report.install.into_iter().map(pin).collect();
    pins.sort();
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_a_line_for_each_package() {
        let text = "# by uv\nnumpy==2.2.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nsix==1.17.0\n";
        assert_eq!(of_lock(text), ["numpy==2.2.6 --hash=sha256:aa --hash=sha256:bb", "six==1.17.0"]);
    }

    #[test]
    fn pips_report_is_read() {
        let text = r#"{"version": "1", "install": [
            {"metadata": {"name": "six", "version": "1.17.0"}, "download_info": {"url": "x", "archive_info": {"hash": "sha256=bb"}}},
            {"metadata": {"name": "a", "version": "1"}, "download_info": {"url": "x", "archive_info": {"hashes": {"sha256": "aa"}}}}]}"#;
        assert_eq!(of_report(text).unwrap(), ["a==1 --hash=sha256:aa", "six==1.17.0 --hash=sha256:bb"]);
        assert!(of_report("{}").is_err());
    }
}
