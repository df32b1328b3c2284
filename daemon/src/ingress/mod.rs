//! The ways by which requests come in: bytes here, inputs and outputs of the core beyond.

pub mod http;
pub mod mqtt;
pub mod serial;
