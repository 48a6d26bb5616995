//! Whether a registry accepts credentials: distribution-spec's `/v2/`, asked with them.

use ureq::Body;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header;

use super::auth;
use super::auth::Challenge;
use super::auth::Credentials;
use super::call::Failure;
use super::client::Client;
use super::endpoint::Endpoint;
use super::endpoint::Scheme;
use super::error::RegistryError;
use super::transport;
use super::transport::Request;

/// What a registry said to credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// It wants some, and these are good.
    Accepted,
    /// It lets everybody in.
    NotWanted,
}

impl Client {
    /// Asks a registry whether it accepts a user's password. A registry is called as in image names: `docker.io`.
    ///
    /// # Errors
    /// [`RegistryError`]; `LoginRefused` if it does not.
    pub fn login(
        &self,
        registry: &str,
        user: &str,
        password: &str,
    ) -> Result<Login, RegistryError> {
        self.over_endpoints(&[self.shared.places.of_registry(registry)?], |endpoint| {
            self.try_login(endpoint, user, password)
        })
    }

    fn try_login(&self, endpoint: &Endpoint, user: &str, password: &str) -> Result<Login, Failure> {
        let ask = Request::new(Method::GET, endpoint.root());
        let mut response = self.send(endpoint, &endpoint.trust, &ask)?;
        if response.status().is_success() {
            return Ok(Login::NotWanted);
        }
        let challenge = auth::challenge(&response);
        let (StatusCode::UNAUTHORIZED, Some(challenge)) = (response.status(), challenge) else {
            return Err(self.unexpected(endpoint, &ask, &mut response));
        };
        let answer = match challenge {
            Challenge::Basic => auth::basic(user, password),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                if endpoint.scheme != Scheme::Plain && !transport::is_tls(&realm) {
                    let why = format!("it wants credentials sent in the clear to `{realm}`");
                    return Err(self.protocol(endpoint, why));
                }
                let credentials = Credentials::Password {
                    user: user.to_owned(),
                    password: password.to_owned(),
                };
                let scopes = auth::merge_scopes(&Vec::new(), scope.as_deref());
                let mut form = String::new();
                let service = service.as_deref();
                let token = auth::token_request(&realm, service, &scopes, &credentials, &mut form);
                let mut response = self.send(endpoint, &endpoint.trust, &token)?;
                if !response.status().is_success() {
                    return Err(self.refused(endpoint, user, &token, &mut response));
                }
                let body = self.read_limited(endpoint, &realm, &mut response, auth::MAX_TOKEN)?;
                auth::read_token(&body)
                    .ok_or_else(|| self.protocol(endpoint, format!("`{realm}` gave no token")))?
            }
        };
        let ask = ask.header(header::AUTHORIZATION, answer.0);
        let mut response = self.send(endpoint, &endpoint.trust, &ask)?;
        match response.status().is_success() {
            true => Ok(Login::Accepted),
            false => Err(self.refused(endpoint, user, &ask, &mut response)),
        }
    }

    fn refused(
        &self,
        endpoint: &Endpoint,
        user: &str,
        request: &Request<'_>,
        response: &mut Response<Body>,
    ) -> Failure {
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::LoginRefused {
                registry: endpoint.name.clone(),
                user: user.to_owned(),
                message: super::call::explanation(response),
            }
            .into(),
            _ => self.unexpected(endpoint, request, response),
        }
    }
}
