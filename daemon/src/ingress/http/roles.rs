//! Who may do what over HTTP: one table of every call, and one rule for what a page may say of an order.
//!
//! Whoever is on the gateway's own computer may do everything, and is not in it.

use super::access::Caller;
use gateway::order::{Effect, Status};
use gateway::request::Request;
use serde::{Deserialize, Serialize};

/// What a paired page is for. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Shows the board.
    Board,
    /// Works in the kitchen: bumps, recalls, acknowledges.
    Kitchen,
    /// Voids, refunds, and changes what was ordered.
    Manager,
    /// Everything.
    Operator,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Role; 4] = [Role::Board, Role::Kitchen, Role::Manager, Role::Operator];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Board => "board",
            Role::Kitchen => "kitchen",
            Role::Manager => "manager",
            Role::Operator => "operator",
        }
    }

    /// The role of that word.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Whoever reaches the listener: nothing that should not be read from the street.
    Anybody,
    /// Terminals, and pages from this role on.
    House(Role),
    /// Pages from this role on, and no terminal.
    Pages(Role),
}

use Role::{Board, Kitchen, Operator};
use Who::{Anybody, House, Pages};

/// Every call: its method, its path, and who may make it.
pub const TABLE: [(&str, &str, Who); 31] = [
    ("get", "/", Anybody),
    ("get", "/board.json", Anybody),
    ("get", "/board/stream", Anybody),
    ("get", "/health", Anybody),
    ("get", "/pair", Anybody),
    ("post", "/pair", Anybody),
    ("get", "/static/{file}", Anybody),
    ("get", "/api/v1/stream", House(Board)),
    ("get", "/kitchen", House(Kitchen)),
    ("get", "/api/v1/kitchen", House(Kitchen)),
    ("get", "/api/v1/orders", House(Kitchen)),
    ("get", "/api/v1/orders/{orderId}", House(Kitchen)),
    ("get", "/api/v1/orders/{orderId}/history", House(Kitchen)),
    // What it may say is `least_for`'s to decide.
    ("post", "/api/v1/orders/{orderId}/events", House(Kitchen)),
    ("post", "/api/v1/orders/{orderId}/acknowledge", House(Kitchen)),
    ("post", "/api/v1/orders/{orderId}/print", House(Kitchen)),
    ("post", "/api/v1/orders", House(Operator)),
    ("get", "/operations", House(Operator)),
    ("get", "/api/v1/state", House(Operator)),
    ("get", "/api/v1/operations", House(Operator)),
    ("get", "/api/v1/day", House(Operator)),
    ("get", "/api/v1/dead-letters", House(Operator)),
    ("get", "/api/v1/dead-letters/{seq}", House(Operator)),
    ("get", "/ready", House(Operator)),
    ("get", "/metrics", House(Operator)),
    ("get", "/openapi.json", House(Operator)),
    ("post", "/api/v1/dead-letters/{seq}", Pages(Operator)),
    ("post", "/api/v1/replay", Pages(Operator)),
    ("post", "/api/v1/pairing-codes", Pages(Operator)),
    ("get", "/api/v1/pages", Pages(Operator)),
    ("delete", "/api/v1/pages/{id}", Pages(Operator)),
];

/// Who may make a call. What is not in the table is the operator's.
pub fn who(method: &str, path: &str) -> Who {
    let method = if method.eq_ignore_ascii_case("head") { "get" } else { method };
    let row = TABLE.iter().find(|(m, p, _)| m.eq_ignore_ascii_case(method) && *p == path);
    row.map_or(Pages(Operator), |(.., who)| *who)
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The caller has to show who it is.
    Unknown,
    /// It may not, whoever it is.
    Forbidden(String),
}

/// Lets a caller make a call or says why not.
pub fn check(who: Who, caller: &Caller) -> Result<(), Refused> {
    match (who, caller) {
        (Anybody, _) | (_, Caller::Local) | (House(_), Caller::Terminals(_)) => Ok(()),
        (House(_) | Pages(_), Caller::Stranger) => Err(Refused::Unknown),
        (Pages(role), Caller::Terminals(_)) => {
            let role = role.as_str();
            Err(Refused::Forbidden(format!("no terminal may do this, only a page that is paired as {role} and the gateway's own computer")))
        }
        (House(least) | Pages(least), Caller::Page(page)) => check_role(page.role, least),
    }
}

/// Lets a page say this of an order or says why not.
pub fn check_event(request: &Request, caller: &Caller) -> Result<(), Refused> {
    match caller {
        Caller::Local | Caller::Terminals(_) => Ok(()),
        Caller::Page(page) => check_role(page.role, least_for(&request.effect)),
        Caller::Stranger => Err(Refused::Unknown),
    }
}

fn check_role(role: Role, least: Role) -> Result<(), Refused> {
    if role >= least {
        return Ok(());
    }
    Err(Refused::Forbidden(format!("this page is paired as {}; it takes {}", role.as_str(), least.as_str())))
}

fn least_for(effect: &Effect) -> Role {
    match effect {
        Effect::Status(Status::Cancelled, _) | Effect::Refund(_) | Effect::Payment(_) | Effect::Lines { .. } => Role::Manager,
        Effect::Status(_, _) | Effect::Reopen | Effect::Shipper(_) => Role::Kitchen,
        Effect::Create { .. } => Role::Operator,
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Page, hash};
    use super::super::routes::routes;
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn page(role: Role) -> Caller {
        Caller::Page(Page { id: "0a".into(), name: "grill".parse().unwrap(), role, sha256: hash(b""), paired_at_ms: None })
    }

    #[test]
    fn every_call_is_in_the_table_once_and_nothing_else_is() {
        let served: Vec<_> = routes().iter().flat_map(|route| route.methods.iter().map(|method| (*method, route.path))).collect();
        let table: Vec<_> = TABLE.iter().map(|(method, path, _)| (*method, *path)).collect();
        assert_eq!(table.len(), served.len());
        assert_eq!(BTreeSet::from_iter(table), BTreeSet::from_iter(served));
        assert_eq!(who("post", "/api/v1/never-thought-of"), Pages(Operator));
        assert_eq!(who("HEAD", "/kitchen"), House(Kitchen));
    }

    /// Written down a second time, caller by caller: a slip in the table is seen here.
    #[test]
    fn each_caller_may_do_this_and_no_more() {
        let allowed = |caller: &Caller| -> BTreeSet<String> {
            TABLE.iter().filter(|row| check(row.2, caller).is_ok()).map(|(method, path, _)| format!("{method} {path}")).collect()
        };
        let set = |calls: &[&str]| -> BTreeSet<String> { calls.iter().map(|call| (*call).to_owned()).collect() };
        let stranger =
            set(&["get /", "get /board.json", "get /board/stream", "get /health", "get /pair", "post /pair", "get /static/{file}"]);
        let board = &stranger | &set(&["get /api/v1/stream"]);
        let kitchen = &board
            | &set(&[
                "get /kitchen",
                "get /api/v1/kitchen",
                "get /api/v1/orders",
                "get /api/v1/orders/{orderId}",
                "get /api/v1/orders/{orderId}/history",
                "post /api/v1/orders/{orderId}/events",
                "post /api/v1/orders/{orderId}/acknowledge",
                "post /api/v1/orders/{orderId}/print",
            ]);
        let terminal = &kitchen
            | &set(&[
                "post /api/v1/orders",
                "get /operations",
                "get /api/v1/state",
                "get /api/v1/day",
                "get /api/v1/operations",
                "get /api/v1/dead-letters",
                "get /api/v1/dead-letters/{seq}",
                "get /ready",
                "get /metrics",
                "get /openapi.json",
            ]);
        let everything = &terminal
            | &set(&[
                "post /api/v1/dead-letters/{seq}",
                "post /api/v1/replay",
                "post /api/v1/pairing-codes",
                "get /api/v1/pages",
                "delete /api/v1/pages/{id}",
            ]);
        assert_eq!(everything.len(), TABLE.len());
        assert_eq!(allowed(&Caller::Stranger), stranger);
        assert_eq!(allowed(&page(Role::Board)), board);
        assert_eq!(allowed(&page(Role::Kitchen)), kitchen);
        assert_eq!(allowed(&page(Role::Manager)), kitchen, "what a manager may say of an order is more");
        assert_eq!(allowed(&Caller::Terminals(vec!["till-1".parse().unwrap()])), terminal);
        assert_eq!(allowed(&page(Role::Operator)), everything);
        assert_eq!(allowed(&Caller::Local), everything);
    }

    #[test]
    fn voids_and_refunds_take_a_manager_and_new_orders_an_operator() {
        let least = |kind: &str, data: serde_json::Value| {
            let body = json!({"type": kind, "data": data}).to_string();
            let request = Request::parse_event("r-1".parse().unwrap(), &"o-1".parse().unwrap(), body.as_bytes()).unwrap();
            let may = |role: &Role| check_event(&request, &page(*role)).is_ok();
            assert!(check_event(&request, &Caller::Terminals(vec![])).is_ok() && check_event(&request, &Caller::Local).is_ok());
            assert_eq!(check_event(&request, &Caller::Stranger), Err(Refused::Unknown));
            let least = Role::ALL.into_iter().find(may).unwrap();
            assert!(Role::ALL.iter().filter(|role| **role >= least).all(may), "who may more may this");
            least
        };
        let line = json!([{"foodId": "f", "foodName": "Pizza", "price": 1, "quantity": 1}]);
        for status in ["CONFIRMED", "PREPARING", "READY", "OUT_FOR_DELIVERY", "DELIVERED"] {
            assert_eq!(least("order.state_changed", json!({"status": status})), Role::Kitchen, "{status}");
        }
        assert_eq!(least("order.state_changed", json!({"status": "READY", "line": 1})), Role::Kitchen);
        assert_eq!(least("order.state_changed", json!({"change": "reopen"})), Role::Kitchen);
        assert_eq!(least("order.delivered", json!({})), Role::Kitchen);
        assert_eq!(least("order.shipper_assigned", json!({"shipperId": "s-1"})), Role::Kitchen);
        assert_eq!(least("order.state_changed", json!({"status": "CANCELLED"})), Role::Manager);
        assert_eq!(least("order.cancelled", json!({})), Role::Manager);
        assert_eq!(least("order.state_changed", json!({"change": "refund", "amount": 1, "reason": "cold"})), Role::Manager);
        assert_eq!(least("order.state_changed", json!({"change": "lines", "orderDetails": line})), Role::Manager);
        assert_eq!(least("order.payment_processed", json!({"status": "PAID"})), Role::Manager);
        assert_eq!(least("order.created", json!({"orderDetails": line})), Role::Operator);
    }
}
