//! Every path of the server, in one table: the router is built from it, and a test holds `openapi.json` against it. Who may call what is in
//! [`roles`](super::roles).

use super::access::{Guarded, admit};
use super::guard::guard;
use super::reply::Reply;
use super::{App, alarms, day, dead_letters, journal, operations, pair, print, reads, submit};
use crate::display;
use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};
use gateway::request::Code;
use std::sync::Arc;

/// A path, and what is there.
pub struct Route {
    pub path: &'static str,
    /// Its methods beside HEAD, in lower case.
    #[allow(dead_code, reason = "the tests hold openapi.json and the router against it")]
    pub methods: &'static [&'static str],
    handlers: MethodRouter<Arc<App>>,
}

/// Every path.
pub fn routes() -> Vec<Route> {
    let read = |path, handlers| Route { path, methods: &["get"], handlers };
    vec![
        Route { path: "/api/v1/orders", methods: &["get", "post"], handlers: get(reads::orders).post(submit::new_order) },
        read("/api/v1/orders/{orderId}", get(reads::order)),
        read("/api/v1/orders/{orderId}/history", get(journal::history)),
        Route { path: "/api/v1/orders/{orderId}/events", methods: &["post"], handlers: post(submit::event) },
        Route { path: "/api/v1/orders/{orderId}/acknowledge", methods: &["post"], handlers: post(alarms::acknowledge) },
        Route { path: "/api/v1/orders/{orderId}/print", methods: &["post"], handlers: post(print::print) },
        Route { path: "/api/v1/replay", methods: &["post"], handlers: post(journal::replay) },
        read("/api/v1/day", get(day::day)),
        read("/api/v1/operations", get(operations::operations)),
        read("/api/v1/dead-letters", get(dead_letters::list)),
        Route {
            path: "/api/v1/dead-letters/{seq}",
            methods: &["get", "post"],
            handlers: get(dead_letters::show).post(dead_letters::decide),
        },
        read("/api/v1/kitchen", get(reads::kitchen)),
        read("/api/v1/state", get(reads::state)),
        read("/api/v1/stream", get(reads::stream)),
        read("/health", get(reads::health)),
        read("/ready", get(reads::ready)),
        read("/metrics", get(reads::metrics_text)),
        read("/openapi.json", get(reads::openapi)),
        read("/", get(display::board_page)),
        read("/board.json", get(reads::public_board)),
        read("/board/stream", get(reads::public_stream)),
        read("/kitchen", get(display::kitchen_page)),
        read("/operations", get(display::operations_page)),
        Route { path: "/pair", methods: &["get", "post"], handlers: get(pair::page).post(pair::pair) },
        Route { path: "/api/v1/pairing-codes", methods: &["post"], handlers: post(pair::new_code) },
        read("/api/v1/pages", get(pair::list)),
        Route { path: "/api/v1/pages/{id}", methods: &["delete"], handlers: delete(pair::revoke) },
        read("/static/{file}", get(reads::static_file)),
    ]
}

/// The whole server behind its guards.
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let guarded = Guarded { app: app.clone(), path: route.path };
        let handlers = route.handlers.layer(from_fn_with_state(guarded, admit));
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
