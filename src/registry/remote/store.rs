//! What is asked of a store: the objects `<prefix>/<name>.tar.gz` of a bucket, or of a web server; of that `<name>.py` as well.
//!
//! The protocols are those of the crate `object_store`. Here is how long it may take, what its answers mean for a registry, and that
//! no secret gets into a message.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use actors::name::FunctionName;
use bytes::Bytes;
use chrono::DateTime;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
    RetryConfig,
};
use serde::{Deserialize, Serialize};

use crate::config::{StoreAddress, StoreKind};
use crate::registry::form::{ARCHIVE_SUFFIX, FILE_SUFFIX};

/// How long a connection may take to be made: it crosses an ocean in a tenth.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a store may think before it answers, all tries together; less than a first call waits for its function.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a listing may take: a hundred pages of a thousand, at a third of a second each.
pub(super) const LISTING_TIME_MAX: Duration = Duration::from_secs(30);
/// How long it may be silent in the middle of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long one object may take, up or down: the largest function, 250 MiB, at 2 MiB/s.
pub(super) const OBJECT_TIME_MAX: Duration = Duration::from_secs(125);
/// What is sent in one piece; longer ones go in parts of this, so that no more of them is in memory. S3 wants at least 5 MiB, and allows
/// 10,000.
const PART_BYTES: u64 = 8 << 20;
/// Objects that are listed at most. Who has more than so many functions in one registry has other trouble first.
const N_LISTED_MAX: usize = 100_000;
/// The longest text of what went wrong; stores answer with whole pages.
const REASON_CHARS_MAX: usize = 300;

/// How long the client waits. Laid over what the environment says, so that proxies and the like that it names stay.
fn patience() -> [(ClientConfigKey, String); 3] {
    let text = |time: Duration| format!("{} s", time.as_secs());
    [
        (ClientConfigKey::ConnectTimeout, text(CONNECT_TIME_MAX)),
        (ClientConfigKey::ReadTimeout, text(SILENCE_MAX)),
        (ClientConfigKey::Timeout, text(OBJECT_TIME_MAX)),
    ]
}

/// A store that was opened; nothing was asked of it yet.
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// What all paths of a listing begin with. The client of a web server is given the address with its path, and puts only what comes
    /// below into requests; but in what a server lists there is all of it.
    root: Path,
    kind: StoreKind,
}

/// What tells one content of an object from another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tag {
    e_tag: Option<String>,
    /// In seconds since 1970. Not used for a condition if it was young when it was read.
    modified: Option<i64>,
    /// Of which object that was said.
    #[serde(default)]
    kind: ObjectKind,
}

/// What an object that is a function may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum ObjectKind {
    /// `<name>.tar.gz`.
    #[default]
    Archive,
    /// `<name>.py`, on web servers, as OpenLambda had it. Who has none pays for it with a second question, which in a bucket costs
    /// money.
    File,
}

impl ObjectKind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Archive => ARCHIVE_SUFFIX,
            Self::File => FILE_SUFFIX,
        }
    }
}

/// What a store says about a function.
pub(super) enum Got {
    /// It is what the tag says.
    Same,
    /// There is none.
    Absent,
    /// It is this.
    Object(Object),
}

/// An object that is being read.
pub(super) struct Object {
    pub(super) tag: Tag,
    pub(super) bytes: u64,
    pub(super) pieces: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// Why a store does not do what it is asked; in words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct StoreError(pub(super) String);

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        let mut text = error.to_string();
        // The sources say what the kernel or the store said.
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                text = format!("{text}: {inner_text}");
            }
            source = inner.source();
        }
        Self(presentable(&text))
    }
}

/// One line, not too long, and without what stands behind a `?` in addresses, which may be a signature.
fn presentable(text: &str) -> String {
    let mut shown = String::new();
    let mut in_query = false;
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match c {
            '?' => in_query = true,
            ' ' | ')' | '"' | '\'' => in_query = false,
            _ => {}
        }
        if !in_query {
            shown.push(c);
        }
    }
    let is_long = shown.chars().count() > REASON_CHARS_MAX;
    let mut cut: String = shown.chars().take(REASON_CHARS_MAX).collect();
    if is_long {
        cut.push('…');
    }
    cut
}

impl Store {
    /// Reads the environment for credentials and the like. Asks nobody.
    pub(super) fn open(address: &StoreAddress) -> Result<Self, StoreError> {
        // Somebody else may have chosen one already; then that is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(1),
                base: 2.0,
            },
            // Who asks comes back by itself.
            max_retries: 1,
            retry_timeout: ANSWER_TIME_MAX,
        };
        let option = |names: &[&str]| {
            let found = address.options.iter().find(|(name, _)| names.contains(&name.as_str()));
            found.map(|(_, value)| value.as_str())
        };
        let is_on = |names: &[&str]| option(names).map(|value| matches!(value, "true" | "1"));
        let objects: Arc<dyn ObjectStore> = match address.kind {
            StoreKind::S3 => {
                let mut builder =
                    AmazonS3Builder::from_env().with_bucket_name(&address.bucket).with_retry(retry);
                for (key, value) in patience() {
                    builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
                }
                if let Some(region) = option(&["region"]) {
                    builder = builder.with_region(region);
                }
                if let Some(endpoint) = option(&["endpoint"]) {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some(path_style) = is_on(&["s3ForcePathStyle", "use_path_style"]) {
                    builder = builder.with_virtual_hosted_style_request(!path_style);
                }
                if is_on(&["disableSSL", "disable_https"]) == Some(true) {
                    builder = builder.with_allow_http(true);
                }
                Arc::new(builder.build()?)
            }
            StoreKind::Gcs => {
                let builder = GoogleCloudStorageBuilder::from_env();
                let mut builder = builder.with_bucket_name(&address.bucket).with_retry(retry);
                for (key, value) in patience() {
                    builder = builder.with_config(GoogleConfigKey::Client(key), value);
                }
                Arc::new(builder.build()?)
            }
            StoreKind::Azure => {
                let builder = MicrosoftAzureBuilder::from_env();
                let mut builder = builder.with_container_name(&address.bucket).with_retry(retry);
                for (key, value) in patience() {
                    builder = builder.with_config(AzureConfigKey::Client(key), value);
                }
                if let Some(account) = option(&["storage_account"]) {
                    builder = builder.with_account(account);
                }
                Arc::new(builder.build()?)
            }
            StoreKind::Http => {
                let mut builder = HttpBuilder::new().with_url(&address.bucket).with_retry(retry);
                for (key, value) in patience() {
                    builder = builder.with_config(key, value);
                }
                if address.bucket.starts_with("http://") {
                    builder = builder.with_config(ClientConfigKey::AllowHttp, "true");
                }
                Arc::new(builder.build()?)
            }
        };
        let prefix = Path::parse(&address.prefix).map_err(|error| StoreError(error.to_string()))?;
        let root = match address.kind {
            // Behind `https:`, nothing, and the host.
            StoreKind::Http => Path::from_url_path(address.bucket.splitn(4, '/').nth(3).unwrap_or_default())
                .map_err(|error| StoreError(error.to_string()))?,
            _ => prefix.clone(),
        };
        Ok(Self { objects, prefix, root, kind: address.kind })
    }

    /// Whether functions can be put there.
    pub(super) fn is_read_only(&self) -> bool {
        self.kind == StoreKind::Http
    }

    /// In the order in which they are asked for; the first that is there is the function.
    fn kinds(&self) -> &'static [ObjectKind] {
        match self.kind {
            StoreKind::Http => &[ObjectKind::Archive, ObjectKind::File],
            StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure => &[ObjectKind::Archive],
        }
    }

    fn path(&self, name: &FunctionName, kind: ObjectKind) -> Path {
        self.prefix.clone().join(format!("{name}{}", kind.suffix()))
    }

    /// What it has under this name, if that is not what `tag` says.
    pub(super) async fn get(&self, name: &FunctionName, tag: Option<&Tag>) -> Result<Got, StoreError> {
        for kind in self.kinds() {
            let tag = tag.filter(|tag| tag.kind == *kind).cloned().unwrap_or_default();
            match self.get_object(name, *kind, tag).await? {
                Got::Absent => {}
                there => return Ok(there),
            }
        }
        Ok(Got::Absent)
    }

    async fn get_object(&self, name: &FunctionName, kind: ObjectKind, tag: Tag) -> Result<Got, StoreError> {
        let options = GetOptions {
            if_modified_since: match (&tag.e_tag, tag.modified) {
                (None, Some(seconds)) => DateTime::from_timestamp(seconds, 0),
                _ => None,
            },
            if_none_match: tag.e_tag,
            ..GetOptions::default()
        };
        let path = self.path(name, kind);
        let got = match in_time(self.objects.get_opts(&path, options)).await? {
            Ok(got) => got,
            Err(object_store::Error::NotModified { .. }) => return Ok(Got::Same),
            Err(object_store::Error::NotFound { .. }) => return Ok(Got::Absent),
            Err(error) => return Err(error.into()),
        };
        Ok(Got::Object(Object {
            tag: Tag {
                e_tag: got.meta.e_tag.clone(),
                modified: Some(got.meta.last_modified.timestamp()),
                kind,
            },
            bytes: got.meta.size,
            pieces: got.into_stream().map(|piece| piece.map_err(StoreError::from)).boxed(),
        }))
    }

    /// Puts an archive there, as a whole or not at all.
    pub(super) async fn put(
        &self,
        name: &FunctionName,
        mut file: File,
        bytes: u64,
    ) -> Result<Tag, StoreError> {
        let path = self.path(name, ObjectKind::Archive);
        let late = |_| StoreError(format!("it took longer than {} s", OBJECT_TIME_MAX.as_secs()));
        let put = async {
            if bytes <= PART_BYTES {
                let whole = part(&mut file).await?;
                return Ok(self.objects.put(&path, PutPayload::from_bytes(whole)).await?.e_tag);
            }
            let mut upload = self.objects.put_multipart(&path).await?;
            match in_parts(upload.as_mut(), &mut file).await {
                Ok(e_tag) => Ok(e_tag),
                Err(error) => {
                    // What cannot be given up is swept by the rules of the bucket.
                    let _ = upload.abort().await;
                    Err(error)
                }
            }
        };
        let e_tag = tokio::time::timeout(OBJECT_TIME_MAX, put).await.map_err(late)??;
        Ok(Tag { e_tag, ..Tag::default() })
    }

    /// Removes it. Tells whether it was there.
    pub(super) async fn delete(&self, name: &FunctionName) -> Result<bool, StoreError> {
        let path = self.path(name, ObjectKind::Archive);
        // To remove what is not there is no error for most stores.
        match in_time(self.objects.head(&path)).await? {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        match in_time(self.objects.delete(&path)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The functions it has; `None`: it does not say.
    pub(super) async fn list(&self) -> Result<Option<Vec<FunctionName>>, StoreError> {
        let late = |_| StoreError(format!("no whole listing within {} s", LISTING_TIME_MAX.as_secs()));
        tokio::time::timeout(LISTING_TIME_MAX, self.list_all()).await.map_err(late)?
    }

    async fn list_all(&self) -> Result<Option<Vec<FunctionName>>, StoreError> {
        let mut names = Vec::new();
        if self.kind == StoreKind::Http {
            // By WebDAV; one level of it, since servers refuse to look through all at once. HTTP by itself has no listings, and what
            // a server says that does not know the method is up to it.
            let Ok(Ok(listed)) = in_time(self.objects.list_with_delimiter(Some(&self.prefix))).await else {
                return Ok(None);
            };
            names.extend(listed.objects.iter().filter_map(|object| self.name_of(&object.location)));
        } else {
            let mut objects = self.objects.list(Some(&self.prefix));
            let mut n_seen = 0;
            while let Some(object) = in_time(objects.next()).await? {
                n_seen += 1;
                if n_seen > N_LISTED_MAX {
                    return Err(StoreError(format!("there are more than {N_LISTED_MAX} objects")));
                }
                names.extend(self.name_of(&object?.location));
            }
        }
        names.sort();
        names.dedup();
        Ok(Some(names))
    }

    /// The function that this object would be.
    fn name_of(&self, location: &Path) -> Option<FunctionName> {
        let mut rest = location.prefix_match(&self.root)?;
        let (file, None) = (rest.next()?, rest.next()) else { return None };
        let name = self.kinds().iter().find_map(|kind| file.as_ref().strip_suffix(kind.suffix()))?;
        let name: FunctionName = name.parse().ok()?;
        (!name.as_str().contains(ARCHIVE_SUFFIX)).then_some(name)
    }

    /// Whether it answers as a registry should.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        if self.kind == StoreKind::Http {
            // Any answer about a file that nobody has will do.
            let path = Path::from(format!(".{ARCHIVE_SUFFIX}"));
            return match in_time(self.objects.head(&path)).await? {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        // An object that is not there and a bucket that is not there look the same; a listing tells them apart.
        match in_time(self.objects.list(Some(&self.prefix)).next()).await? {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }
}

impl Tag {
    /// Of which object it is.
    pub(super) fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Without a time of change that may be that of another content as well: one that came within the same second.
    pub(super) fn certain(mut self, now_s: i64) -> Self {
        // A clock may be wrong by some seconds; what is asked for without a condition is merely sent again.
        self.modified = self.modified.filter(|modified| now_s - modified >= 10);
        self
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, StoreError> {
    let late = |_| StoreError(format!("no answer within {} s", ANSWER_TIME_MAX.as_secs()));
    tokio::time::timeout(ANSWER_TIME_MAX, answer).await.map_err(late)
}

async fn in_parts(upload: &mut dyn MultipartUpload, file: &mut File) -> Result<Option<String>, StoreError> {
    loop {
        let piece = part(file).await?;
        if piece.is_empty() {
            return Ok(upload.complete().await?.e_tag);
        }
        upload.put_part(PutPayload::from_bytes(piece)).await?;
    }
}

/// The next part of a file; empty at its end.
async fn part(file: &mut File) -> Result<Bytes, StoreError> {
    let failed = |error: std::io::Error| StoreError(format!("the upload cannot be read again: {error}"));
    let file = file.try_clone().map_err(failed)?;
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = Vec::new();
        file.take(PART_BYTES).read_to_end(&mut piece)?;
        Ok(Bytes::from(piece))
    });
    read.await.map_err(|error| StoreError(error.to_string()))?.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_told_in_one_line_without_signatures() {
        let text = "GET https://a/b.tar.gz?sig=geheim&x=1 failed:\n  (https://a?sig=geheim) refused";
        assert_eq!(presentable(text), "GET https://a/b.tar.gz failed: (https://a) refused");
        assert_eq!(presentable(&"x".repeat(5000)).chars().count(), REASON_CHARS_MAX + 1);
    }

    #[test]
    fn a_time_of_change_is_a_condition_only_when_nothing_can_have_come_in_the_same_second() {
        let certain =
            |modified, now_s| Tag { modified: Some(modified), ..Tag::default() }.certain(now_s).modified;
        assert_eq!(certain(95, 100), None);
        assert_eq!(certain(105, 100), None, "a clock that is ahead");
        assert_eq!(certain(90, 100), Some(90));
    }
}
