//! Pulls the plug. The rig records what a running process writes to its data folder, and builds from the record the disks that a power
//! cut at any moment could leave: what a completed sync covers is there, of all else any part in any order. Each has to open, with
//! every order that somebody had heard to be stored, once.
//!
//! A record is proved before it is used: played again from the folder before, it gives the very bytes of the folder after. So a write
//! that the recorder missed fails the run.

pub mod dice;
pub mod image;
pub mod judge;
pub mod record;
pub mod recorder;
pub mod session;
pub mod trace;
pub mod tree;
pub mod writer;
