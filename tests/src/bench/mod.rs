//! What the benches are made of: figures, generators, and what a contender must show before it is measured.

mod row;

pub use row::{ProgramSize, Programs, Row, Samples};
