//! What the programs and the agent share.
#![no_std]
