//! What the benches are made of: figures, and generators of packets between two ends of a contender.

pub mod attach;
pub mod bulk;
pub mod connections;
pub mod packets;
mod pin;
pub mod ping_pong;
mod process;
mod row;
pub mod scale;

pub use row::{ProgramSize, Programs, Row, Samples};
