//! The server as its clients meet it, over real connections.

mod alarms;
mod bad_input;
mod dead_letters;
mod house;
mod journal;
mod kitchen;
mod openapi;
mod orders;
mod pairing;
mod reach;
mod streams;
mod tls;
