//! Docker archives and OCI layouts: which layers make up the image.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ImageError;
use super::layers::Layers;
use super::source::Source;

/// Indexes inside of each other at most: one for the platforms, and room for one more.
const INDEX_DEPTH_MAX: usize = 4;

/// Layers of an image at most: that of docker.
const N_LAYERS_MAX: usize = 127;

/// `manifest.json` of a docker archive: one element per image.
#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Layers")]
    layers: Vec<String>,
    #[serde(rename = "Config", default)]
    config: String,
}

/// An OCI index or manifest; which it is, its fields tell.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Reference>,
    #[serde(default)]
    layers: Vec<Reference>,
}

#[derive(Deserialize, Clone)]
struct Reference {
    digest: String,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Platform {
    fn this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned() }
    }

    fn is_this_machine(&self) -> bool {
        let this = Self::this_machine();
        self.architecture == this.architecture && self.os == this.os
    }

    fn name(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }
}

/// Unpack the image at `image` to the empty directory `to`.
pub(super) fn unpack(image: &Path, to: &Path) -> Result<(), ImageError> {
    let source = Source::open(image, to.parent().unwrap_or(to))?;
    let mut layers = Layers::into(image, to)?;
    if let Some(manifest) = source.document("manifest.json")? {
        for layer in docker_layers(&source, &manifest)? {
            layers.apply(open(&source, &layer)?)?;
        }
    } else if let Some(index) = source.document("index.json")? {
        for digest in oci_layers(&source, &index, 0)? {
            // Read twice, so that nothing is unpacked of what is not what it says.
            verify(&source, &digest)?;
            layers.apply(open(&source, &blob(&source, &digest)?)?)?;
        }
    } else {
        return Err(source.format("there is no manifest.json and no index.json in it".to_owned()));
    }
    layers.finish()
}

fn docker_layers(source: &Source, manifest: &[u8]) -> Result<Vec<String>, ImageError> {
    let images: Vec<DockerImage> = parse(source, "manifest.json", manifest)?;
    let n_images = images.len();
    let Ok([image]) = <[DockerImage; 1]>::try_from(images) else {
        return Err(source.format(format!("it has {n_images} images; save one with `docker save IMAGE`")));
    };
    if let Some(config) = source.document(&image.config)? {
        let platform: Platform = parse(source, &image.config, &config)?;
        if !platform.architecture.is_empty() {
            check_platform(source, &[platform])?;
        }
    }
    check_number(source, image.layers.len())?;
    Ok(image.layers)
}

/// Digests of the layers, from the bottom.
fn oci_layers(source: &Source, document: &[u8], depth: usize) -> Result<Vec<String>, ImageError> {
    let document: Document = parse(source, "a manifest", document)?;
    if document.manifests.is_empty() {
        if let Some(layer) = document.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            return Err(source.format(format!("layers of the type {} are not understood", layer.media_type)));
        }
        check_number(source, document.layers.len())?;
        return Ok(document.layers.into_iter().map(|layer| layer.digest).collect());
    }
    if depth == INDEX_DEPTH_MAX {
        return Err(source.format("its indexes are too deep".to_owned()));
    }
    let manifests: Vec<_> =
        document.manifests.into_iter().filter(|manifest| !is_attestation(manifest)).collect();
    let of_platform =
        manifests.iter().find(|manifest| manifest.platform.as_ref().is_some_and(Platform::is_this_machine));
    let chosen = match (of_platform, manifests.as_slice()) {
        (Some(manifest), _) => manifest,
        (None, [only]) if only.platform.is_none() => only,
        (None, several) => {
            let platforms: Vec<_> = several.iter().filter_map(|manifest| manifest.platform.clone()).collect();
            check_platform(source, &platforms)?;
            return Err(source.format(format!("it has {} images; make a layout with one", several.len())));
        }
    };
    verify(source, &chosen.digest)?;
    let name = blob(source, &chosen.digest)?;
    let document = source.document(&name)?.ok_or_else(|| missing(source, &name))?;
    oci_layers(source, &document, depth + 1)
}

fn check_platform(source: &Source, found: &[Platform]) -> Result<(), ImageError> {
    if found.is_empty() || found.iter().any(Platform::is_this_machine) {
        return Ok(());
    }
    Err(ImageError::Platform {
        path: source.path().to_owned(),
        wanted: Platform::this_machine().name(),
        found: found.iter().map(Platform::name).collect::<Vec<_>>().join(", "),
    })
}

fn check_number(source: &Source, n_layers: usize) -> Result<(), ImageError> {
    match n_layers {
        0 => Err(source.format("it has no layers".to_owned())),
        n if n > N_LAYERS_MAX => {
            Err(source.format(format!("it has {n} layers, and {N_LAYERS_MAX} are the most")))
        }
        _ => Ok(()),
    }
}

fn is_layer(media_type: &str) -> bool {
    let plain =
        ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar"];
    media_type.strip_suffix("+gzip").or_else(|| media_type.strip_suffix("+zstd")).map_or_else(
        || plain.contains(&media_type) || media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip",
        |start| plain.contains(&start),
    )
}

fn is_attestation(manifest: &Reference) -> bool {
    manifest.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
}

fn parse<'de, T: Deserialize<'de>>(source: &Source, name: &str, bytes: &'de [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| source.format(format!("{name}: {error}")))
}

/// Name of the file with this digest.
fn blob(source: &Source, digest: &str) -> Result<String, ImageError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(format!("blobs/sha256/{hex}"))
        }
        _ => Err(source.format(format!("'{}' is not a sha256 digest", digest.escape_debug()))),
    }
}

fn open<'a>(source: &'a Source, name: &str) -> Result<Box<dyn Read + 'a>, ImageError> {
    source.file(name)?.ok_or_else(|| missing(source, name))
}

fn missing(source: &Source, name: &str) -> ImageError {
    source.format(format!("{} is missing in it", name.escape_debug()))
}

fn verify(source: &Source, digest: &str) -> Result<(), ImageError> {
    let name = blob(source, digest)?;
    let mut file = open(source, &name)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = file.read(&mut buffer).map_err(|error| ImageError::Io {
            step: "read",
            path: source.path().join(&name),
            source: error,
        })?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if name.ends_with(&found) {
        return Ok(());
    }
    Err(ImageError::Digest { path: source.path().to_owned(), blob: name, found })
}
