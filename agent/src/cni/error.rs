//! CNI errors: a number that runtimes act upon, and a text for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Error numbers: 1 to 99 are the CNI specification's, 100 and more are Podlane's.
pub mod code {
    /// The configuration's `cniVersion` is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The configuration has a field that Podlane cannot honour.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// No such container or attachment.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or invalid; the text names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// Something that should be JSON is not.
    pub const DECODE: u32 = 6;
    /// The network configuration makes no sense.
    pub const INVALID_CONFIG: u32 = 7;
    /// Nothing is wrong with the request: repeat it later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would not work.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the same, and pods that are there may not reach all others.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Making an attachment failed; everything was rolled back, or the details say what was not.
    pub const ATTACH_FAILED: u32 = 100;
    /// No pod address is left.
    pub const ADDRESSES_EXHAUSTED: u32 = 101;
    /// The interface, the device or the attachment exists already.
    pub const CONFLICT: u32 = 102;
    /// CHECK: the attachment is damaged.
    pub const DAMAGED: u32 = 103;
    /// No agent answers. Between the client and the plugin only: runtimes are told [`TRY_AGAIN_LATER`].
    pub const AGENT_ABSENT: u32 = 199;
    /// DEL: something could not be removed; DEL can be repeated.
    pub const DETACH_FAILED: u32 = 104;
}

/// An error as CNI and the agent's API report it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// One of [`code`].
    pub code: u32,
    /// What went wrong, in one line.
    pub msg: String,
    /// The causes, if there is more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same with details.
    #[must_use]
    pub fn details(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.details.as_str() {
            "" => write!(f, "{} (CNI error {})", self.msg, self.code),
            details => write!(f, "{}: {details} (CNI error {})", self.msg, self.code),
        }
    }
}

impl std::error::Error for Error {}
