//! The server as its clients meet it, over real connections.

mod bad_input;
mod house;
mod openapi;
mod orders;
mod reach;
mod streams;
