//! What people in the house see: the pages and what feeds them. All files are in the binary; nothing is fetched from elsewhere.

mod language;
mod pages;
mod stream;

#[cfg(test)]
mod tests;

pub use language::Language;
pub use pages::{board_page, json_once, kitchen_page, operations_page, pair_page, static_file};
pub use stream::{BoardText, Streams};
