//! Requests to the Hub, and what its answers mean.

use super::super::Options;
use crate::error::{Error, ErrorKind, Result, bail, ensure};
use std::time::Duration;
use ureq::{
    Agent, Body,
    config::RedirectAuthHeaders,
    http::{Response, header::HeaderMap},
};

/// A mute server is given up after this long, in every phase.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a repository's description: 20,000 files would fit.
const MAX_INFO: u64 = 4 << 20;

/// A repository at one commit.
pub(super) struct Info {
    pub(super) sha: String,
    pub(super) files: Vec<String>,
}

/// A file, as the Hub describes it.
pub(super) struct File {
    /// Names its content: the blob in the cache.
    pub(super) etag: String,
    pub(super) size: u64,
}

/// The Hub, asked with the user's token.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(options: &Options) -> Self {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let mut config = Agent::config_builder()
            .user_agent(concat!("impasto/", env!("CARGO_PKG_VERSION")))
            // A redirect to a storage service must not carry the token there.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            // Answers that are errors carry the reason in a header.
            .http_status_as_error(false)
            .timeout_resolve(Some(PATIENCE))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        // A proxy for the world does not know the way to this machine.
        if ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|local| endpoint.starts_with(local)) {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), endpoint, token: options.token.clone() }
    }

    /// The commit that `revision` stands for, and its files.
    pub(super) fn info(&self, id: &str, revision: &str) -> Result<Info> {
        #[derive(serde::Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{id}/revision/{}", self.endpoint, revision.replace('/', "%2F"));
        let mut response = self.send(self.get(&url), &url)?;
        self.check(&response, id, revision, "")?;
        let body = response.body_mut().with_config().limit(MAX_INFO).read_to_vec();
        let answer =
            body.map_err(|e| e.to_string()).and_then(|b| serde_json::from_slice(&b).map_err(|e| e.to_string()));
        match answer {
            Ok(Answer { sha, siblings }) => {
                Ok(Info { sha, files: siblings.into_iter().map(|s| s.rfilename).collect() })
            }
            Err(e) => bail!(Network, "{url} did not answer as the Hub does: {e}"),
        }
    }

    /// Size and content name of a file. Redirects within the Hub (a renamed repository) are followed, one to a
    /// storage service is not: the answer that sends there has the headers.
    pub(super) fn file(&self, id: &str, sha: &str, file: &str) -> Result<File> {
        let mut url = self.url(id, sha, file);
        for _ in 0..5 {
            let request = self.authorised(self.agent.head(&url));
            let request = request.config().max_redirects(0).max_redirects_will_error(false).build();
            let response = self.send(request, &url)?;
            let location = header(response.headers(), "location");
            if response.status().is_redirection()
                && let Some(path) = location.filter(|l| l.starts_with('/') && !l.starts_with("//"))
            {
                url = format!("{}{path}", self.endpoint);
                continue;
            }
            self.check(&response, id, sha, file)?;
            let headers = response.headers();
            let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag")).unwrap_or("");
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            let size = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
            let Some(size) = size.and_then(|s| s.parse().ok()) else {
                bail!(Network, "{url} did not answer as the Hub does: no size")
            };
            // It becomes a file name in the cache.
            ensure!(super::is_id_part(&etag), Network, "{url} did not answer as the Hub does: the ETag is {etag:?}");
            return Ok(File { etag, size });
        }
        bail!(Network, "{url} redirects without end")
    }

    /// The bytes of a file from `start` on. The answer may begin at 0 all the same: see its status.
    pub(super) fn open(&self, id: &str, sha: &str, file: &str, start: u64) -> Result<Response<Body>> {
        let url = self.url(id, sha, file);
        let mut request = self.get(&url);
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let response = self.send(request, &url)?;
        self.check(&response, id, sha, file)?;
        Ok(response)
    }

    fn url(&self, id: &str, sha: &str, file: &str) -> String {
        format!("{}/{id}/resolve/{sha}/{file}", self.endpoint)
    }

    fn get(&self, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        self.authorised(self.agent.get(url))
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn send(&self, request: ureq::RequestBuilder<ureq::typestate::WithoutBody>, url: &str) -> Result<Response<Body>> {
        request.call().map_err(|e| {
            let advice = "check the connection (and HF_ENDPOINT, if you set it); '--model mini' needs no network, and a \
                          file or folder can be named instead";
            Error::with_source(ErrorKind::Network, format!("cannot reach {url}; {advice}"), e)
        })
    }

    /// Turns an answer that is an error into one, by the Hub's code for it.
    fn check(&self, response: &Response<Body>, id: &str, revision: &str, file: &str) -> Result<()> {
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(());
        }
        let code = header(response.headers(), "x-error-code").unwrap_or("");
        let page = format!("{}/{id}", self.endpoint);
        match (status, code, &self.token) {
            (_, "GatedRepo", None) => bail!(
                Gated,
                "'{id}' is gated: accept its licence at {page}, make a token at {}/settings/tokens, and set HF_TOKEN to it",
                self.endpoint
            ),
            (_, "GatedRepo", Some(_)) => {
                bail!(
                    Gated,
                    "'{id}' is gated, and your token's account may not read it yet: accept its licence at {page}"
                )
            }
            (_, "RevisionNotFound", _) => bail!(NotFound, "'{id}' has no revision '{revision}'; see {page}"),
            (_, "EntryNotFound", _) => bail!(NotFound, "'{id}' has no file '{file}' at '{revision}'; see {page}"),
            // The Hub does not tell a stranger whether a private repository exists.
            (404, ..) | (401, "RepoNotFound", _) | (401, _, None) => bail!(
                NotFound,
                "there is no model '{id}' on {}, or it is private: check the spelling ('impasto models list' knows some), \
                 or set HF_TOKEN",
                self.endpoint
            ),
            (401, _, Some(_)) => bail!(Gated, "{} does not accept the token in HF_TOKEN", self.endpoint),
            (403, ..) => bail!(Gated, "your token may not read '{id}': see {page}"),
            (429, ..) => bail!(Network, "{} asks for patience (too many requests): try again later", self.endpoint),
            _ => bail!(Network, "{} answered {}: try again later", self.endpoint, response.status()),
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
