//! In which language a page is asked for.

use super::App;
use crate::display::Language;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::convert::Infallible;
use std::sync::Arc;

impl FromRequestParts<Arc<App>> for Language {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Language, Infallible> {
        Ok(Language::choose(parts.uri.query(), app.settings.language, &parts.headers))
    }
}
