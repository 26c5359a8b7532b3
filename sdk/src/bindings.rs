//! What `wit/` says, as Rust. Generated here once, so that an author's crate only exports and compiles fast.
#![allow(unsafe_code, reason = "the canonical ABI passes pointers")]
#![allow(missing_docs, unreachable_pub, unused_qualifications, reason = "generated code")]
#![allow(clippy::allow_attributes_without_reason, reason = "generated code")]

/// World `connector`.
pub mod connector {
    wit_bindgen::generate!({
        path: "../wit",
        world: "connector",
        // With it the section in this crate describes imports only, of which wit-component drops the unused; the exports
        // come with the macro. So both worlds can live in one crate.
        pub_export_macro: true,
        export_macro_name: "export_connector",
        runtime_path: "::tomada_sdk::__wit_bindgen::rt",
        additional_derives: [PartialEq],
        additional_type_attributes: {
            "tomada:hub/http@1.0.0/method": [#[derive(serde::Deserialize)] #[serde(rename_all = "UPPERCASE")]],
        },
    });
}

/// World `mapping`, on the types of the other.
pub mod mapping {
    wit_bindgen::generate!({
        path: "../wit",
        world: "mapping",
        pub_export_macro: true,
        export_macro_name: "export_mapping",
        runtime_path: "::tomada_sdk::__wit_bindgen::rt",
        with: {
            "tomada:hub/types@1.0.0": super::connector::tomada::hub::types,
            "tomada:hub/log@1.0.0": super::connector::tomada::hub::log,
        },
    });
}
