//! Version 1 of the two worlds: `tomada:hub@1.0.0`. A later version stands beside it and leaves it as it is.

pub(crate) mod bindings;
pub(crate) mod host;
