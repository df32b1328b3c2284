//! The ingress against ptys, opened by their path as a real port is, with a stand-in for the event loop.

mod binary;
mod driven;
mod json;
mod rig;
