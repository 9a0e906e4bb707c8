//! What the benches are made of: figures, and generators of packets between two ends of a contender.

pub mod attach;
mod beside;
mod bulk;
mod connections;
mod forwarding;
mod packets;
mod pin;
pub(crate) mod ping_pong;
mod process;
mod question;
mod row;
pub mod scale;
mod undisturbed;

pub use beside::{Beside, in_turns};
pub use forwarding::{Forwarding, Receiver, Route};
pub use question::{Answer, Question, What};
pub use row::{ProgramSize, Programs, Row, Samples};
pub use undisturbed::{Paced, most_slowness, undisturbed};
