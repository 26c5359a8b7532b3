//! Lines for the operator; they stand in the attempt. At most 200 of 2 KiB each per call. No personal data.

use crate::bindings::connector::tomada::hub::log::Level;
use crate::host;

/// Only while developing.
pub fn trace(message: impl AsRef<str>) {
    host::log(Level::Trace, message.as_ref());
}

/// What helps to find a fault.
pub fn debug(message: impl AsRef<str>) {
    host::log(Level::Debug, message.as_ref());
}

/// What an operator may want to know.
pub fn info(message: impl AsRef<str>) {
    host::log(Level::Info, message.as_ref());
}

/// Something was odd and was dealt with.
pub fn warn(message: impl AsRef<str>) {
    host::log(Level::Warn, message.as_ref());
}

/// Something is wrong. What the hub should do about it is said by the returned [`Failure`](crate::Failure).
pub fn error(message: impl AsRef<str>) {
    host::log(Level::Error, message.as_ref());
}
