//! Where packages come from: the index of this machine's pip and uv configuration, or that of `pip_mirror`.
//!
//! The configuration is read as pip reads it: `pip.conf` of the machine, then of the user who runs the worker, then the
//! environment, each over the one before. In the installer sandbox nothing of it can be seen; both tools get it as
//! environment variables. Which hosts they may reach follows from it ([`Sources::hosts`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use actors::packages::without_credentials;

/// Largest configuration file that is read; they have some lines.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Where the index is if nobody says otherwise.
const PYPI: &str = "https://pypi.org/simple";
/// An index, and where it keeps the packages.
const STORES: [(&str, &str); 2] =
    [("pypi.org", "files.pythonhosted.org"), ("test.pypi.org", "test-files.pythonhosted.org")];
/// A proxy's port if it has none.
const PROXY_PORT: u16 = 3128;

/// Where packages come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The index; `None`: PyPI.
    index: Option<String>,
    /// More of them.
    extra: Vec<String>,
    /// Pages with links.
    links: Vec<String>,
    /// Directories of this machine with packages in them.
    pub(super) directories: Vec<PathBuf>,
    no_index: bool,
    only_binary: Option<String>,
    no_binary: Option<String>,
    pre: bool,
    /// Hosts whose certificates are not checked.
    trusted: Vec<String>,
    /// Certificates to check servers by.
    pub(super) certificates: Option<PathBuf>,
    /// Through which this machine reaches the index.
    pub(super) proxy: Option<Proxy>,
    /// Hosts that are reached without it.
    direct: Vec<String>,
    timeout: Option<String>,
    /// Besides those of the index.
    more_hosts: Vec<String>,
}

/// An HTTP proxy of the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// User and password, if it wants them.
    pub(super) credentials: Option<String>,
}

/// A host that the installer may reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Host {
    pub(super) name: String,
    /// `None`: the two of the web.
    pub(super) port: Option<u16>,
}

impl Host {
    /// Whether a connection to there is one to it.
    pub(super) fn is(&self, name: &str, port: u16) -> bool {
        self.name.eq_ignore_ascii_case(name) && self.port.map_or(matches!(port, 80 | 443), |own| own == port)
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Sources {
    /// Those of this machine; `mirror` takes the place of its index. `hosts` may be reached as well.
    #[must_use]
    pub fn of_machine(mirror: Option<&str>, hosts: &[String]) -> Self {
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let mut options = BTreeMap::new();
        for path in pip_files(&environment) {
            if let Ok(text) = read_small(&path) {
                read_pip_file(&text, &mut options);
            }
        }
        let mut sources = Self::of(&options, &environment);
        if let Some(mirror) = mirror {
            sources.index = Some(mirror.to_owned());
        }
        sources.more_hosts = hosts.to_vec();
        sources
    }

    /// From pip's options (`index-url` and so on) and the environment, which has the last word.
    fn of(options: &BTreeMap<String, String>, environment: &BTreeMap<String, String>) -> Self {
        let env = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let pip = |name: &str| {
            let variable = format!("PIP_{}", name.to_ascii_uppercase().replace('-', "_"));
            env(&variable).or_else(|| options.get(name).map(String::as_str)).filter(|value| !value.is_empty())
        };
        let words = |text: Option<&str>| -> Vec<String> {
            text.unwrap_or_default()
                .split([' ', ',', '\n', '\t'])
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let is_set = |text: Option<&str>| {
            text.is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        };
        // uv names an index as name=url.
        let bare = |url: String| match url.split_once('=') {
            Some((name, rest)) if !name.contains(['/', ':']) && rest.contains("://") => rest.to_owned(),
            _ => url,
        };
        let mut sources = Self {
            index: env("UV_DEFAULT_INDEX")
                .or(env("UV_INDEX_URL"))
                .or(pip("index-url"))
                .map(|url| bare(url.to_owned())),
            no_index: is_set(env("UV_NO_INDEX")) || is_set(pip("no-index")),
            only_binary: pip("only-binary")
                .map(str::to_owned)
                .or(is_set(env("UV_NO_BUILD")).then(|| ":all:".into())),
            no_binary: pip("no-binary").map(str::to_owned),
            pre: is_set(pip("pre")),
            certificates: env("SSL_CERT_FILE")
                .or(pip("cert"))
                .map(PathBuf::from)
                .filter(|path| path.is_file()),
            timeout: env("UV_HTTP_TIMEOUT")
                .or(pip("timeout"))
                .or(env("PIP_DEFAULT_TIMEOUT"))
                .map(str::to_owned),
            ..Self::default()
        };
        for url in
            [env("UV_INDEX"), env("UV_EXTRA_INDEX_URL"), pip("extra-index-url")].into_iter().flat_map(words)
        {
            sources.extra.push(bare(url));
        }
        for place in [env("UV_FIND_LINKS"), pip("find-links")].into_iter().flat_map(words) {
            sources.add_links(&place);
        }
        sources.trusted =
            [env("UV_INSECURE_HOST"), pip("trusted-host")].into_iter().flat_map(words).collect();
        let lower = |name: &str| env(name).or_else(|| env(&name.to_ascii_lowercase()));
        let proxy = pip("proxy").or(lower("HTTPS_PROXY")).or(lower("ALL_PROXY")).or(lower("HTTP_PROXY"));
        sources.proxy = proxy.and_then(Proxy::parse);
        sources.direct = words(lower("NO_PROXY"));
        sources
    }

    fn add_links(&mut self, place: &str) {
        let path = Path::new(place.strip_prefix("file://").unwrap_or(place));
        if place.contains("://") && !place.starts_with("file://") {
            self.links.push(place.to_owned());
        } else if path.is_absolute() && path.is_dir() {
            self.directories.push(path.to_owned());
        }
    }

    /// The same with what a list of requirements says of it. It can name no host that may not be reached.
    pub(super) fn with(&self, option: &str, value: &str) -> Self {
        let mut sources = self.clone();
        match option {
            "index-url" => sources.index = Some(value.to_owned()),
            "extra-index-url" => sources.extra.push(value.to_owned()),
            "find-links" if value.contains("://") && !value.starts_with("file:") => {
                sources.links.push(value.to_owned())
            }
            "no-index" => sources.no_index = true,
            "only-binary" => sources.only_binary = Some(value.to_owned()),
            "no-binary" => sources.no_binary = Some(value.to_owned()),
            "pre" => sources.pre = true,
            _ => {}
        }
        sources
    }

    /// Whether an address in a list is an index that the operator has configured: written as it is, or without its password.
    pub(super) fn has_index(&self, url: &str) -> bool {
        let pypi = (self.index.is_none() && !self.no_index).then_some(PYPI);
        let own = pypi.into_iter().chain(self.index.iter().chain(&self.extra).map(String::as_str));
        let bare = |url: &str| url.trim_end_matches('/').to_owned();
        own.map(bare).any(|own| own == bare(url) || without_credentials(&own) == bare(url))
    }

    /// The same of a page of links. What is no address is passed over, and so is nobody else's.
    pub(super) fn has_links(&self, url: &str) -> bool {
        let is_address = url.contains("://") && !url.starts_with("file:");
        !is_address || self.links.iter().any(|own| own == url || without_credentials(own) == url)
    }

    /// For the records: without passwords.
    pub(super) fn described(&self) -> String {
        let index = (!self.no_index).then(|| self.index.as_deref().unwrap_or(PYPI));
        let urls = index.into_iter().chain(self.extra.iter().chain(&self.links).map(String::as_str));
        let directories = self.directories.iter().map(|path| path.display().to_string());
        let all: Vec<String> = urls.map(without_credentials).chain(directories).collect();
        if all.is_empty() { "nowhere".to_owned() } else { all.join(" ") }
    }

    /// Whom the installer may reach.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let pypi = (self.index.is_none() && !self.no_index).then_some(PYPI);
        let urls = pypi
            .into_iter()
            .chain(self.index.iter().chain(&self.extra).chain(&self.links).map(String::as_str));
        let mut hosts: Vec<Host> = urls.filter_map(host_of).collect();
        for (index, store) in STORES {
            if hosts.iter().any(|host| host.name == index) {
                hosts.push(Host { name: store.into(), port: Some(443) });
            }
        }
        hosts.extend(self.more_hosts.iter().map(|text| match text.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => {
                Host { name: name.into(), port: port.parse().ok() }
            }
            _ => Host { name: text.clone(), port: None },
        }));
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// Whether the machine reaches this host without its proxy.
    pub(super) fn is_direct(&self, host: &str) -> bool {
        self.direct.iter().any(|rule| {
            let rule = rule.trim_start_matches(['*', '.']);
            rule.is_empty() || host == rule || host.strip_suffix(rule).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// For uv. `directories`: where it sees those with packages; `certificates`: likewise.
    pub(super) fn for_uv(
        &self,
        directories: &[String],
        certificates: Option<&str>,
    ) -> BTreeMap<String, String> {
        let mut links = self.links.clone();
        links.extend_from_slice(directories);
        let mut env = Variables::default();
        env.set("UV_DEFAULT_INDEX", self.index.clone());
        env.list("UV_INDEX", &self.extra, " ");
        // As pip does, which knows no order of indexes.
        env.set("UV_INDEX_STRATEGY", (!self.extra.is_empty()).then(|| "unsafe-best-match".into()));
        env.list("UV_FIND_LINKS", &links, ",");
        env.set("UV_NO_INDEX", self.no_index.then(|| "1".into()));
        env.list("UV_INSECURE_HOST", &self.trusted, " ");
        env.set("UV_PRERELEASE", self.pre.then(|| "allow".into()));
        env.set("UV_HTTP_TIMEOUT", self.timeout.clone());
        env.set("SSL_CERT_FILE", certificates.map(str::to_owned));
        env.0
    }

    /// For pip.
    pub(super) fn for_pip(
        &self,
        directories: &[String],
        certificates: Option<&str>,
    ) -> BTreeMap<String, String> {
        let mut links = self.links.clone();
        links.extend_from_slice(directories);
        let mut trusted = self.trusted.clone();
        // Who configured it knows that it is not encrypted; pip would pass over it.
        let plain =
            self.index.iter().chain(&self.extra).chain(&self.links).filter(|url| url.starts_with("http://"));
        trusted.extend(plain.filter_map(|url| host_of(url)).map(|host| host.name));
        let mut env = Variables::default();
        env.set("PIP_INDEX_URL", self.index.clone());
        env.list("PIP_EXTRA_INDEX_URL", &self.extra, " ");
        env.list("PIP_FIND_LINKS", &links, " ");
        env.set("PIP_NO_INDEX", self.no_index.then(|| "1".into()));
        env.list("PIP_TRUSTED_HOST", &trusted, " ");
        env.set("PIP_PRE", self.pre.then(|| "1".into()));
        env.set("PIP_DEFAULT_TIMEOUT", self.timeout.clone());
        env.set("PIP_CERT", certificates.map(str::to_owned));
        env.0
    }

    /// What both tools take as arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let both = [("--only-binary", &self.only_binary), ("--no-binary", &self.no_binary)];
        let values = both.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        values
            .flat_map(|(name, value)| {
                value.split(',').map(move |one| [name.to_owned(), one.trim().to_owned()])
            })
            .flatten()
            .collect()
    }
}

#[derive(Default)]
struct Variables(BTreeMap<String, String>);

impl Variables {
    fn set(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.0.insert(name.into(), value);
        }
    }

    fn list(&mut self, name: &str, values: &[String], between: &str) {
        self.set(name, (!values.is_empty()).then(|| values.join(between)));
    }
}

impl Proxy {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://").or_else(|| (!url.contains("://")).then_some(url))?;
        let authority = rest.split('/').next()?;
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials.to_owned()), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (address, PROXY_PORT),
        };
        Some(Self { host: host.to_owned(), port, credentials })
    }
}

/// The host and the port of an address.
fn host_of(url: &str) -> Option<Host> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (name, port) = match address.rsplit_once(':') {
        Some((name, own)) if !own.ends_with(']') => (name, own.parse().ok()?),
        _ => (address, port),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    (!name.is_empty()).then(|| Host { name: name.to_ascii_lowercase(), port: Some(port) })
}

/// Those that pip reads, the last of them with the last word.
fn pip_files(environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/xdg/pip/pip.conf"), PathBuf::from("/etc/pip.conf")];
    if let Some(home) = environment.get("HOME").map(Path::new) {
        files.push(home.join(".pip/pip.conf"));
        let config = environment.get("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        files.push(config.join("pip/pip.conf"));
    }
    match environment.get("PIP_CONFIG_FILE").map(String::as_str) {
        Some("/dev/null") => Vec::new(),
        Some(own) => {
            files.push(own.into());
            files
        }
        None => files,
    }
}

fn read_small(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// An INI file: `[global]`, then what `[install]` says over it. A value goes on in lines that are indented.
fn read_pip_file(text: &str, options: &mut BTreeMap<String, String>) {
    let mut sections: [BTreeMap<String, String>; 2] = Default::default();
    let (mut section, mut key) = (None, None::<String>);
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = ["global", "install"].iter().position(|known| *known == name.trim());
            key = None;
        } else if let Some(at) = section {
            if line.starts_with([' ', '\t'])
                && let Some(key) = &key
                && let Some(value) = sections[at].get_mut(key)
            {
                value.push('\n');
                value.push_str(bare);
            } else if let Some((name, value)) = bare.split_once(['=', ':']) {
                let name = name.trim().to_ascii_lowercase().replace('_', "-");
                sections[at].insert(name.clone(), value.trim().to_owned());
                key = Some(name);
            }
        }
    }
    sections.into_iter().for_each(|section| options.extend(section));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str, environment: &[(&str, &str)]) -> Sources {
        let mut options = BTreeMap::new();
        read_pip_file(file, &mut options);
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Sources::of(&options, &environment)
    }

    fn hosts(sources: &Sources) -> Vec<String> {
        sources.hosts().iter().map(Host::to_string).collect()
    }

    #[test]
    fn without_any_configuration_it_is_pypi_and_where_that_keeps_its_files() {
        assert_eq!(hosts(&Sources::default()), ["files.pythonhosted.org:443", "pypi.org:443"]);
        assert!(Sources::default().for_uv(&[], None).is_empty());
    }

    #[test]
    fn the_machines_pip_configuration_is_read_as_pip_does() {
        let file = "[global]\nindex-url = https://user:secret@pip.example:8443/simple\nextra-index-url =\n    http://one.example/simple\n    https://two.example/simple\n[install]\ntimeout=5\n[list]\nformat = json\n";
        let found = sources(
            file,
            &[
                ("PIP_TIMEOUT", "9"),
                ("HTTPS_PROXY", "http://me:pw@proxy.example:8080/"),
                ("NO_PROXY", "localhost,.corp.example"),
            ],
        );
        assert_eq!(hosts(&found), ["one.example:80", "pip.example:8443", "two.example:443"]);
        let pip = found.for_pip(&[], Some("/ca.pem"));
        assert_eq!(pip["PIP_INDEX_URL"], "https://user:secret@pip.example:8443/simple");
        assert_eq!(pip["PIP_EXTRA_INDEX_URL"], "http://one.example/simple https://two.example/simple");
        assert_eq!(
            (pip["PIP_TRUSTED_HOST"].as_str(), pip["PIP_DEFAULT_TIMEOUT"].as_str()),
            ("one.example", "9")
        );
        assert_eq!(found.for_uv(&["/mnt/links0".into()], None)["UV_FIND_LINKS"], "/mnt/links0");
        let proxy = found.proxy.clone().unwrap();
        assert_eq!(
            (proxy.host.as_str(), proxy.port, proxy.credentials.as_deref()),
            ("proxy.example", 8080, Some("me:pw"))
        );
        assert!(
            found.is_direct("localhost") && found.is_direct("a.corp.example") && !found.is_direct("pypi.org")
        );
    }

    #[test]
    fn uvs_variables_count_too_and_a_list_of_requirements_opens_no_door() {
        let found = sources(
            "",
            &[("UV_DEFAULT_INDEX", "corp=https://corp.example/simple"), ("UV_INDEX", "https://x.example/a")],
        );
        assert_eq!(hosts(&found), ["corp.example:443", "x.example:443"]);
        let asked = found.with("index-url", "http://evil.example/simple");
        assert_eq!(asked.for_pip(&[], None)["PIP_INDEX_URL"], "http://evil.example/simple");
        assert_eq!(
            hosts(&found),
            ["corp.example:443", "x.example:443"],
            "the hosts are those of the machine's"
        );
    }

    #[test]
    fn more_hosts_have_a_port_or_those_of_the_web() {
        let sources =
            Sources { more_hosts: vec!["a.example".into(), "b.example:81".into()], ..Sources::default() };
        let is = |name: &str, port| sources.hosts().iter().any(|host| host.is(name, port));
        assert!(is("A.example", 443) && is("a.example", 80) && is("b.example", 81));
        assert!(!is("a.example", 22) && !is("b.example", 80) && !is("pypi.org", 80));
    }
}
