use instant_acme::{
    Account, AuthorizationStatus, ChallengeHandle, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};

use super::responder::Responder;
use super::{Acme, AcmeError};
use crate::config::Challenge;
use crate::lifecycle::Shutdown;
use crate::net::listener;
use crate::net::tls::Answer;

/// How fast pauses between looks at an order grow.
const GROWTH: f32 = 1.5;

/// A key and the chain of its certificate in PEM.
pub(super) struct Issued {
    pub(super) key: String,
    pub(super) chain: String,
}

impl Acme {
    /// The account that was kept, or a fresh one.
    async fn account(&self) -> Result<Account, AcmeError> {
        let builder = || Account::builder_with_http(Box::new(self.http.clone()));
        if let Some(kept) = self.files.account().map_err(AcmeError::Unkept)? {
            return Ok(builder().from_credentials(kept).await?);
        }
        let contact: Vec<&str> = self.config.contact.iter().map(String::as_str).collect();
        let fresh = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let directory = self.config.directory.clone();
        let (account, credentials) = builder().create(&fresh, directory, self.binding.as_ref()).await?;
        self.files.keep_account(&credentials).map_err(AcmeError::Unkept)?;
        tracing::info!(account = account.id(), "created an ACME account");
        Ok(account)
    }

    /// Orders a certificate and gives what proves the names.
    pub(super) async fn order(&self) -> Result<Issued, AcmeError> {
        let account = self.account().await?;
        let responder = Responder::default();
        let serving = Shutdown::default();
        let listener = match self.config.challenge {
            Challenge::Http01 => Some(listener::bind(&self.config.http_listen, &self.net).await?),
            Challenge::TlsAlpn01 => None,
        };
        let answering = async {
            if let Some(listener) = listener {
                responder.clone().serve(listener, &serving).await;
            }
        };
        let ordering = async {
            let issued = self.issue(&account, &responder).await;
            serving.abort();
            issued
        };
        tokio::join!(ordering, answering).0
    }

    async fn issue(&self, account: &Account, responder: &Responder) -> Result<Issued, AcmeError> {
        let names: Vec<_> = self.config.names.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let mut answers = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let (kind, offer) = match self.config.challenge {
                Challenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
                Challenge::Http01 => (ChallengeType::Http01, "http-01"),
            };
            let refused = || AcmeError::NotOffered { name: name.clone(), challenge: offer };
            let mut challenge = authorization.challenge(kind).ok_or_else(refused)?;
            answers.extend(self.answer(&name, &challenge, responder)?);
            challenge.set_ready().await?;
        }
        let retries = RetryPolicy::default().backoff(GROWTH).timeout(self.config.order_timeout);
        match order.poll_ready(&retries).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
            outcome => return Err(unproven(&mut order, outcome).await),
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&retries).await?;
        Ok(Issued { key, chain })
    }

    /// What has to be held on to while the answer may be looked for.
    fn answer(
        &self,
        name: &str,
        challenge: &ChallengeHandle<'_>,
        responder: &Responder,
    ) -> Result<Option<Answer>, AcmeError> {
        let authorization = challenge.key_authorization();
        match self.config.challenge {
            Challenge::TlsAlpn01 => Ok(Some(self.challenges.answer(name, authorization.digest().as_ref())?)),
            Challenge::Http01 => {
                responder.answer(&challenge.token, authorization.as_str());
                Ok(None)
            }
        }
    }
}

/// Why the names were not proven, as the directory says of the first that was not.
async fn unproven(order: &mut Order, outcome: Result<OrderStatus, instant_acme::Error>) -> AcmeError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return AcmeError::Unproven { name: state.identifier().to_string(), problem };
        }
    }
    match outcome {
        Ok(status) => AcmeError::Order(status),
        Err(error) => error.into(),
    }
}
