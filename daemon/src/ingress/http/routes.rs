//! Every path of the server, in one table: the router is built from it, and a test holds `openapi.json` against it.

use super::access::{anybody, house_only};
use super::guard::guard;
use super::reply::Reply;
use super::{App, alarms, day, dead_letters, journal, operations, print, reads, submit};
use crate::display;
use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use gateway::request::Code;
use std::sync::Arc;

/// Who may see a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody who can reach the listener: nothing that should not be read from the street.
    Public,
    /// Whoever is no [`Caller::Stranger`](super::access::Caller::Stranger).
    House,
}

/// A path, and what is there.
pub struct Route {
    pub path: &'static str,
    /// Its methods beside HEAD, in lower case.
    #[allow(dead_code, reason = "the tests hold openapi.json and the router against it")]
    pub methods: &'static [&'static str],
    pub access: Access,
    handlers: MethodRouter<Arc<App>>,
}

/// Every path.
pub fn routes() -> Vec<Route> {
    let read = |path, access, handlers| Route { path, methods: &["get"], access, handlers };
    vec![
        Route {
            path: "/api/v1/orders",
            methods: &["get", "post"],
            access: Access::House,
            handlers: get(reads::orders).post(submit::new_order),
        },
        read("/api/v1/orders/{orderId}", Access::House, get(reads::order)),
        read("/api/v1/orders/{orderId}/history", Access::House, get(journal::history)),
        Route { path: "/api/v1/orders/{orderId}/events", methods: &["post"], access: Access::House, handlers: post(submit::event) },
        Route {
            path: "/api/v1/orders/{orderId}/acknowledge",
            methods: &["post"],
            access: Access::House,
            handlers: post(alarms::acknowledge),
        },
        Route { path: "/api/v1/orders/{orderId}/print", methods: &["post"], access: Access::House, handlers: post(print::print) },
        Route { path: "/api/v1/replay", methods: &["post"], access: Access::House, handlers: post(journal::replay) },
        read("/api/v1/day", Access::House, get(day::day)),
        read("/api/v1/operations", Access::House, get(operations::operations)),
        read("/api/v1/dead-letters", Access::House, get(dead_letters::list)),
        Route {
            path: "/api/v1/dead-letters/{seq}",
            methods: &["get", "post"],
            access: Access::House,
            handlers: get(dead_letters::show).post(dead_letters::decide),
        },
        read("/api/v1/kitchen", Access::House, get(reads::kitchen)),
        read("/api/v1/state", Access::House, get(reads::state)),
        read("/api/v1/stream", Access::House, get(reads::stream)),
        read("/health", Access::Public, get(reads::health)),
        read("/ready", Access::House, get(reads::ready)),
        read("/metrics", Access::House, get(reads::metrics_text)),
        read("/openapi.json", Access::House, get(reads::openapi)),
        read("/", Access::Public, get(display::board_page)),
        read("/board.json", Access::Public, get(reads::public_board)),
        read("/board/stream", Access::Public, get(reads::public_stream)),
        read("/kitchen", Access::House, get(display::kitchen_page)),
        read("/operations", Access::House, get(display::operations_page)),
        read("/static/{file}", Access::Public, get(reads::static_file)),
    ]
}

/// The whole server behind its guards.
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let handlers = match route.access {
            Access::Public => route.handlers.layer(from_fn_with_state(app.clone(), anybody)),
            Access::House => route.handlers.layer(from_fn_with_state(app.clone(), house_only)),
        };
        router = router.route(route.path, handlers);
    }
    router
        .method_not_allowed_fallback(|| async { Reply::refused(StatusCode::METHOD_NOT_ALLOWED, Code::Invalid, "no such method here") })
        .fallback(|uri: Uri| async move {
            let message = format!("nothing is at {}; a slash within an order id is written %2F", uri.path());
            Reply::refused(StatusCode::NOT_FOUND, Code::Invalid, message)
        })
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app.clone())
}
