//! `registry: s3://…`: where functions lie when that is not a directory.

use super::{Wrong, wrong};

/// A bucket, or a web server, and what of it is the registry. Credentials are not in here: they come from the environment, or from
/// where the machine gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAddress {
    /// Which protocol is spoken.
    pub kind: StoreKind,
    /// The bucket or container; of a web server the whole address.
    pub bucket: String,
    /// What the names of all objects begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// What comes after the `?`, checked.
    pub options: Vec<(String, String)>,
    /// As it was written, for people.
    pub text: String,
}

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// Amazon S3, and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Any web server; it is only read.
    Http,
}

/// The schemes; the second ones are those of gocloud, which OpenLambda uses.
const SCHEMES: [(&str, StoreKind); 8] = [
    ("s3", StoreKind::S3),
    ("gs", StoreKind::Gcs),
    ("gcs", StoreKind::Gcs),
    ("az", StoreKind::Azure),
    ("azblob", StoreKind::Azure),
    ("azure", StoreKind::Azure),
    ("http", StoreKind::Http),
    ("https", StoreKind::Http),
];

impl StoreKind {
    /// What may come after the `?`: names that gocloud's URLs have.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "prefix",
                "region",
                "endpoint",
                "s3ForcePathStyle",
                "use_path_style",
                "disableSSL",
                "disable_https",
            ],
            Self::Gcs => &["prefix"],
            Self::Azure => &["prefix", "storage_account"],
            Self::Http => &[],
        }
    }
}

impl StoreAddress {
    /// Reads the value of `registry`, if it is not a directory's. `Ok(None)`: it is.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, Wrong> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        if scheme == "file" {
            return Ok(None);
        }
        let Some((_, kind)) = SCHEMES.iter().find(|(name, _)| *name == scheme) else {
            return wrong(
                "registry",
                format!(
                    "is '{text}': write a path, or file://, s3://, gs://, az://, http:// or https:// and what follows"
                ),
            );
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let wrong =
            |problem: &str| wrong("registry", format!("is '{}', and {problem}", without_secret(text)));
        if host.contains('@') {
            return wrong("must have no credentials in it: give them in the environment of the worker");
        }
        if host.is_empty() {
            return wrong("names no bucket");
        }
        let mut prefix = path.trim_matches('/').to_owned();
        let mut options = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if !kind.options().contains(&name) {
                return wrong(&format!(
                    "has the unknown parameter '{name}'; there are: {}",
                    kind.options().join(", ")
                ));
            }
            if name == "prefix" && prefix.is_empty() {
                prefix = value.trim_matches('/').to_owned();
            } else {
                options.push((name.to_owned(), value.to_owned()));
            }
        }
        if prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return wrong("must not have '.' or '..' in its path");
        }
        let (bucket, prefix) = match kind {
            StoreKind::Http => {
                (format!("{scheme}://{place}").trim_end_matches('/').to_owned(), String::new())
            }
            _ => (host.to_owned(), prefix),
        };
        Ok(Some(Self { kind: *kind, bucket, prefix, options, text: text.to_owned() }))
    }
}

/// A text that somebody wrote with a password in it is not repeated with it.
fn without_secret(text: &str) -> String {
    match (text.split_once("://"), text.split_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> StoreAddress {
        StoreAddress::parse(text).unwrap().unwrap()
    }

    fn refused(text: &str) -> String {
        StoreAddress::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn buckets_prefixes_and_parameters_are_told_apart() {
        let address = parsed("s3://bucket/a/b/?region=eu-central-1&s3ForcePathStyle=true");
        assert_eq!(
            (address.kind, address.bucket.as_str(), address.prefix.as_str()),
            (StoreKind::S3, "bucket", "a/b")
        );
        assert_eq!(address.options.len(), 2);
        assert_eq!(parsed("s3://bucket?prefix=a/").prefix, "a");
        assert_eq!(parsed("gs://bucket").kind, StoreKind::Gcs);
        assert_eq!(parsed("azblob://container/p").kind, StoreKind::Azure);
        let web = parsed("https://example.org:8443/functions/");
        assert_eq!((web.kind, web.bucket.as_str()), (StoreKind::Http, "https://example.org:8443/functions"));
        assert_eq!(StoreAddress::parse("file:///r").unwrap(), None);
        assert_eq!(StoreAddress::parse("/r").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        assert!(refused("ftp://host/x").contains("s3://"));
        assert!(refused("s3://").contains("no bucket"));
        assert!(refused("s3://bucket/../x").contains(".."));
        assert!(refused("gs://bucket?region=x").contains("'region'"));
        assert!(refused("https://host/x?token=y").contains("'token'"));
        let text = refused("https://me:geheim@host/x");
        assert!(text.contains("credentials") && !text.contains("geheim"), "{text}");
    }
}
