//! What `bindgen!` makes of `wit/`, and nothing else: slow to compile, seldom changed.

pub(crate) mod connector {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "tomada:hub/connector",
        imports: { "tomada:hub/http.send": async, "tomada:hub/mail.send": async },
        exports: { default: async },
    });
}

pub(crate) mod mapping {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "tomada:hub/mapping",
        with: {
            "tomada:hub/types": super::connector::tomada::hub::types,
            "tomada:hub/log": super::connector::tomada::hub::log,
        },
    });
}

pub(crate) use connector::tomada::hub::{clock, http, log, mail, random, secrets, types};
