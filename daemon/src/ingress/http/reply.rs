//! Answers as HTTP says them: a status, the answer's JSON, and when to come back.

use super::usage::Usage;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use gateway::ids::RequestId;
use gateway::request::{Answer, Code, Rejected};
use serde::Serialize;

/// The header that carries the request id.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// When a refused request is welcome again, where nothing says better.
const RETRY_MS: u64 = 1_000;

/// An answer with its status.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub answer: Answer,
}

impl Reply {
    /// The answer under the status that DESIGN.md gives its code.
    pub fn of(answer: Answer) -> Reply {
        let status = match &answer {
            Answer::Stored(stored) if stored.duplicate => StatusCode::OK,
            Answer::Stored(_) => StatusCode::CREATED,
            Answer::Rejected(rejected) => match rejected.code {
                Code::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                Code::Conflict | Code::Final => StatusCode::CONFLICT,
                Code::Busy => StatusCode::TOO_MANY_REQUESTS,
                Code::Full => StatusCode::SERVICE_UNAVAILABLE,
                Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                Code::Expired => StatusCode::GONE,
                Code::UnknownOrder => StatusCode::NOT_FOUND,
                Code::Unauthorized => StatusCode::FORBIDDEN,
            },
        };
        Reply { status, answer }
    }

    /// A rejection that is HTTP's own.
    pub fn refused(status: StatusCode, code: Code, message: impl Into<String>) -> Reply {
        Reply { status, answer: Answer::rejected(None, code, message, None) }
    }

    /// Nothing could be done now.
    pub fn unavailable(message: impl Into<String>) -> Reply {
        Reply { status: StatusCode::SERVICE_UNAVAILABLE, answer: Answer::rejected(None, Code::Busy, message, Some(RETRY_MS)) }
    }

    /// Counts it as refused before the core saw it.
    pub fn count(&self, usage: &Usage) {
        if let Answer::Rejected(rejected) = &self.answer {
            usage.count_refused(rejected.code);
        }
    }

    /// The same for a request whose id is known.
    pub fn to(mut self, id: RequestId) -> Reply {
        if let Answer::Rejected(Rejected { request_id, .. }) = &mut self.answer {
            request_id.get_or_insert(id);
        }
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(mut self) -> Response<Body> {
        let again = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let mut retry_after_s = None;
        if let Answer::Rejected(Rejected { retry_after_ms, .. }) = &mut self.answer
            && (again || retry_after_ms.is_some())
        {
            retry_after_s = Some(retry_after_ms.get_or_insert(RETRY_MS).div_ceil(1_000).max(1));
        }
        let mut response = json(self.status, &self.answer);
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"dumbwaiter\""));
            }
            // The rest of such a request is not read: the next one could not be told from it.
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// A JSON answer that nobody keeps.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, gateway::json::text(value)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_in_whole_seconds_rounded_up_and_never_zero() {
        for (ms, seconds) in [(Some(1), "1"), (Some(2_001), "3"), (Some(0), "1"), (None, "1")] {
            let answer = Answer::rejected(None, Code::Full, "no room", ms);
            assert_eq!(Reply::of(answer).into_response().headers()[header::RETRY_AFTER], seconds, "{ms:?}");
        }
        let invalid = Answer::rejected(None, Code::Invalid, "no", None);
        assert!(!Reply::of(invalid).into_response().headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn every_code_has_the_status_of_the_contract() {
        let status = |code| Reply::of(Answer::rejected(None, code, "", None)).status.as_u16();
        assert_eq!(Code::ALL.map(status), [422, 409, 429, 503, 413, 410, 404, 409, 403]);
    }
}
