//! Every route of the API with the scope that it asks for and what it leaves in the audit log: the router is made from
//! this table, and so are its tests.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::audit::Audited::{self, Does, MayDo, Nothing, Shows};
use super::audit::{self, Way, admit};
use super::{
    Office, apply, connectors, deliveries, endpoints, events, keyring, keys, mappings, metrics, privacy, record,
    retention, schedules, secrets, sources,
};
use crate::keys::Caller;
use crate::keys::grant::Scope::{self, *};
use crate::problem::Problem;

pub(super) struct Route {
    method: Method,
    path: &'static str,
    scope: Scope,
    audited: Audited,
    handler: MethodRouter<Arc<Office>>,
}

/// A route of the API as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiRoute {
    pub method: &'static str,
    /// Below `/api`, with `{name}` where something is to be filled in.
    pub path: &'static str,
    pub scope: &'static str,
    /// What the audit log calls it; none when it leaves nothing there.
    pub action: Option<&'static str>,
}

fn table() -> Vec<Route> {
    vec![
        get("/events", EventsRead, Nothing, events::list),
        post("/events", EventsPublish, Nothing, events::publish),
        get("/events/{id}", EventsRead, Shows("payload.read"), events::show),
        get("/dead-letters", DeadLettersRead, Shows("payload.read"), deliveries::dead_letters),
        post("/dead-letters/replay", EventsReplay, Does("dead-letters.replay"), deliveries::replay_dead),
        post("/deliveries/{id}/replay", EventsReplay, Does("delivery.replay"), deliveries::replay),
        get("/endpoints", EndpointsRead, Shows("payload.read"), endpoints::list),
        post("/endpoints/{name}/pause", EndpointsWrite, Does("endpoint.pause"), endpoints::pause),
        post("/endpoints/{name}/resume", EndpointsWrite, Does("endpoint.resume"), endpoints::resume),
        get("/queues", EndpointsRead, Nothing, endpoints::queues),
        get("/sources", SourcesRead, Nothing, sources::list),
        get("/schedules", SyncRead, Nothing, schedules::list),
        get("/sync-jobs", SyncRead, Shows("payload.read"), schedules::jobs),
        get("/sync-jobs/{name}/runs", SyncRead, Shows("payload.read"), schedules::runs),
        post("/sync-jobs/{name}/run", SyncRun, Does("sync-job.run"), schedules::run),
        get("/connectors", ConnectorsRead, Nothing, connectors::list),
        put("/connectors/{name}", ConnectorsDeploy, Does("connector.push"), connectors::push),
        post("/connectors/{name}/activate", ConnectorsDeploy, Does("connector.activate"), connectors::activate),
        post("/connectors/{name}/rollback", ConnectorsDeploy, Does("connector.rollback"), connectors::rollback),
        get("/mappings", MappingsRead, Nothing, mappings::list),
        get("/mappings/{name}", MappingsRead, Nothing, mappings::show),
        put("/mappings/{name}", MappingsWrite, Does("mapping.edit"), mappings::edit),
        post("/mappings/{name}/activate", MappingsWrite, Does("mapping.activate"), mappings::activate),
        post("/mappings/{name}/try", MappingsRead, Shows("payload.try"), mappings::trial::run),
        post("/apply", ConfigApply, MayDo("config.apply"), apply),
        get("/keys", KeysManage, Nothing, keys::list),
        post("/keys", KeysManage, Does("key.create"), keys::create),
        post("/keys/{id}/rotate", KeysManage, Does("key.rotate"), keys::rotate),
        post("/keys/{id}/revoke", KeysManage, Does("key.revoke"), keys::revoke),
        get("/audit", AuditRead, Shows("audit.read"), audit::list),
        get("/audit/verify", AuditRead, Shows("audit.verify"), audit::verify),
        get("/secrets", SecretsManage, Nothing, secrets::list),
        put("/secrets/{name}", SecretsManage, Does("secret.set"), secrets::set),
        post("/secrets/{name}/remove", SecretsManage, Does("secret.remove"), secrets::remove),
        get("/keyring", KeyringManage, Nothing, keyring::list),
        post("/keyring/rotate", KeyringManage, Does("keyring.rotate"), keyring::rotate),
        post("/keyring/{id}/retire", KeyringManage, Does("keyring.retire"), keyring::retire),
        get("/privacy/record", SourcesRead, Nothing, record::show),
        get("/metrics", MetricsRead, Nothing, metrics::page),
        get("/retention", MetricsRead, Nothing, retention::list),
        post("/privacy/find", PrivacyFind, MayDo("privacy.find"), privacy::find),
        get("/privacy/reindex", PrivacyFind, Nothing, privacy::reindexing),
        post("/privacy/reindex", PrivacyFind, Does("privacy.reindex"), privacy::reindex),
        post("/privacy/export", PrivacyExport, MayDo("privacy.export"), privacy::export),
        post("/privacy/erase", PrivacyErase, MayDo("privacy.erase"), privacy::erase),
        get("/privacy/erasures", PrivacyErase, Nothing, privacy::erasures),
        post("/privacy/erasures/{id}/close", PrivacyErase, Does("privacy.close"), privacy::close),
    ]
}

/// What the table says, for the test that walks it.
pub fn api_routes() -> Vec<ApiRoute> {
    let shown = |route: Route| {
        let method = match route.method {
            Method::GET => "GET",
            Method::PUT => "PUT",
            _ => "POST",
        };
        ApiRoute { method, path: route.path, scope: route.scope.word(), action: route.audited.action() }
    };
    table().into_iter().map(shown).collect()
}

/// Every scope that a key can have, whether a route asks for it or only something that a route shows.
pub fn api_scopes() -> Vec<&'static str> {
    Scope::ALL.iter().map(|scope| scope.word()).collect()
}

pub(super) fn router(office: &Arc<Office>) -> Router<Arc<Office>> {
    table().into_iter().fold(Router::new(), |router, route| {
        let Route { method, path, scope, audited, handler } = route;
        let (office, way) = (office.clone(), Way { method, path, scope, audited });
        let guard = move |request: Request, next: Next| admit(office.clone(), way.clone(), request, next);
        router.route(path, handler.route_layer(from_fn(guard)))
    })
}

/// Refuses who does not have the scope. Nobody at all has none.
pub(super) fn demand(caller: Option<&Caller>, scope: Scope) -> Result<(), Problem> {
    if caller.is_some_and(|caller| caller.grant.scopes.has(scope)) {
        return Ok(());
    }
    let word = scope.word();
    let problem = Problem::new(StatusCode::FORBIDDEN, format!("this key lacks the scope `{word}`"));
    // As RFC 6750 section 3.1 has it.
    Err(match HeaderValue::from_str(&format!("Bearer error=\"insufficient_scope\", scope=\"{word}\"")) {
        Ok(value) => problem.with(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    })
}

fn get<H: Handler<T, Arc<Office>>, T: 'static>(
    path: &'static str,
    scope: Scope,
    audited: Audited,
    handler: H,
) -> Route {
    Route { method: Method::GET, path, scope, audited, handler: on(MethodFilter::GET, handler) }
}

fn post<H: Handler<T, Arc<Office>>, T: 'static>(
    path: &'static str,
    scope: Scope,
    audited: Audited,
    handler: H,
) -> Route {
    Route { method: Method::POST, path, scope, audited, handler: on(MethodFilter::POST, handler) }
}

fn put<H: Handler<T, Arc<Office>>, T: 'static>(
    path: &'static str,
    scope: Scope,
    audited: Audited,
    handler: H,
) -> Route {
    Route { method: Method::PUT, path, scope, audited, handler: on(MethodFilter::PUT, handler) }
}
