//! Every route of the API with the scope that it asks for: the router is made from this table, and so is its test.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::{
    Office, apply, connectors, deliveries, endpoints, events, keyring, keys, mappings, schedules, secrets, sources,
};
use crate::keys::Caller;
use crate::keys::grant::Scope::{self, *};
use crate::problem::Problem;

pub(super) struct Route {
    method: Method,
    path: &'static str,
    scope: Scope,
    handler: MethodRouter<Arc<Office>>,
}

/// A route of the API as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiRoute {
    pub method: &'static str,
    /// Below `/api`, with `{name}` where something is to be filled in.
    pub path: &'static str,
    pub scope: &'static str,
}

fn table() -> Vec<Route> {
    vec![
        get("/events", EventsRead, events::list),
        post("/events", EventsPublish, events::publish),
        get("/events/{id}", EventsRead, events::show),
        get("/dead-letters", DeadLettersRead, deliveries::dead_letters),
        post("/dead-letters/replay", EventsReplay, deliveries::replay_dead),
        post("/deliveries/{id}/replay", EventsReplay, deliveries::replay),
        get("/endpoints", EndpointsRead, endpoints::list),
        post("/endpoints/{name}/pause", EndpointsWrite, endpoints::pause),
        post("/endpoints/{name}/resume", EndpointsWrite, endpoints::resume),
        get("/queues", EndpointsRead, endpoints::queues),
        get("/sources", SourcesRead, sources::list),
        get("/schedules", SyncRead, schedules::list),
        get("/sync-jobs", SyncRead, schedules::jobs),
        get("/sync-jobs/{name}/runs", SyncRead, schedules::runs),
        post("/sync-jobs/{name}/run", SyncRun, schedules::run),
        get("/connectors", ConnectorsRead, connectors::list),
        put("/connectors/{name}", ConnectorsDeploy, connectors::push),
        post("/connectors/{name}/activate", ConnectorsDeploy, connectors::activate),
        post("/connectors/{name}/rollback", ConnectorsDeploy, connectors::rollback),
        get("/mappings", MappingsRead, mappings::list),
        get("/mappings/{name}", MappingsRead, mappings::show),
        put("/mappings/{name}", MappingsWrite, mappings::edit),
        post("/mappings/{name}/activate", MappingsWrite, mappings::activate),
        post("/mappings/{name}/try", MappingsRead, mappings::trial::run),
        post("/apply", ConfigApply, apply),
        get("/keys", KeysManage, keys::list),
        post("/keys", KeysManage, keys::create),
        post("/keys/{id}/rotate", KeysManage, keys::rotate),
        post("/keys/{id}/revoke", KeysManage, keys::revoke),
        get("/secrets", SecretsManage, secrets::list),
        put("/secrets/{name}", SecretsManage, secrets::set),
        post("/secrets/{name}/remove", SecretsManage, secrets::remove),
        get("/keyring", KeyringManage, keyring::list),
        post("/keyring/rotate", KeyringManage, keyring::rotate),
        post("/keyring/{id}/retire", KeyringManage, keyring::retire),
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
        ApiRoute { method, path: route.path, scope: route.scope.word() }
    };
    table().into_iter().map(shown).collect()
}

/// Every scope that a key can have, whether a route asks for it or only something that a route shows.
pub fn api_scopes() -> Vec<&'static str> {
    Scope::ALL.iter().map(|scope| scope.word()).collect()
}

pub(super) fn router() -> Router<Arc<Office>> {
    table().into_iter().fold(Router::new(), |router, route| {
        let Route { path, scope, handler, .. } = route;
        let admit = move |request: Request, next: Next| async move {
            let caller = request.extensions().get::<Arc<Caller>>();
            demand(caller.map(|caller| &**caller), scope)?;
            Ok::<_, Problem>(next.run(request).await)
        };
        router.route(path, handler.route_layer(from_fn(admit)))
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

fn get<H: Handler<T, Arc<Office>>, T: 'static>(path: &'static str, scope: Scope, handler: H) -> Route {
    Route { method: Method::GET, path, scope, handler: on(MethodFilter::GET, handler) }
}

fn post<H: Handler<T, Arc<Office>>, T: 'static>(path: &'static str, scope: Scope, handler: H) -> Route {
    Route { method: Method::POST, path, scope, handler: on(MethodFilter::POST, handler) }
}

fn put<H: Handler<T, Arc<Office>>, T: 'static>(path: &'static str, scope: Scope, handler: H) -> Route {
    Route { method: Method::PUT, path, scope, handler: on(MethodFilter::PUT, handler) }
}
