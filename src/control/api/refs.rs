//! Plans, regions and gateways, called by their id or by the name that people know them by (docs/02, "Names").

use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::control::db::{DbConn, dispatch};
use crate::control::model::called::Called;
use crate::control::model::id::{GatewayId, PlanId, RegionId};

macro_rules! refs {
    ($($(#[$doc:meta])+ $name:ident ($what:literal) => $find:ident -> $id:ty;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Debug, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(min_length = 1, max_length = 255)]
        pub(crate) struct $name(String);

        impl $name {
            async fn find(&self, conn: &mut DbConn) -> Result<Option<$id>, ApiError> {
                Ok(dispatch!(conn, names::$find(&Called::from(self.0.as_str())))?)
            }

            /// The id, of a path.
            pub(crate) async fn asked(&self, conn: &mut DbConn) -> Result<$id, ApiError> {
                self.find(conn).await?.ok_or_else(ApiError::not_found)
            }

            /// The id, of a field.
            pub(crate) async fn given(&self, conn: &mut DbConn, field: &str) -> Result<$id, ApiError> {
                let unknown = || ApiError::invalid(field, "UNKNOWN", format!("there is no {} {:?}", $what, self.0));
                self.find(conn).await?.ok_or_else(unknown)
            }

            /// The id, of a field that may be absent.
            pub(crate) async fn maybe(given: Option<&Self>, conn: &mut DbConn, field: &str) -> Result<Option<$id>, ApiError> {
                match given {
                    Some(given) => given.given(conn, field).await.map(Some),
                    None => Ok(None),
                }
            }
        }
    )+};
}

refs! {
    /// A plan, by its id or its name.
    PlanRef("plan") => plan -> PlanId;
    /// A region, by its id or its code.
    RegionRef("region") => region -> RegionId;
    /// A gateway, by its id or its name.
    GatewayRef("gateway") => gateway -> GatewayId;
}
