//! The attributes of `tomada-sdk`: they leave the function as it is, export it from the component, and write the
//! manifest that the hub reads without running anything.

mod manifest;

use manifest::{Arguments, Kind};
use proc_macro::TokenStream;
use proc_macro2::Literal;
use quote::quote;
use syn::{Error, ItemFn, parse_macro_input};

/// Makes a component of world `connector` from
/// `fn handle(cx: &Context<Settings>, event: Event<T>) -> Result<Receipt, Failure>`. One per crate.
///
/// * `name` – lower case, `-` between words; required.
/// * `hosts` – where it may go: a host name, `settings.<key>` (the host of the URL in that setting), or `*` (the
///   operator decides). Without any there is no HTTP.
/// * `secrets` – the secrets it may ask for by name.
/// * `mail = true` – it sends e-mail, over the server and from the address that the operator grants.
/// * `events`, `emits` – the event types it handles and gives rise to; without `events` it handles any.
/// * `description`, `version` – those of the package unless given.
/// * `settings_schema` – a JSON Schema of the settings, as text.
#[proc_macro_attribute]
pub fn connector(arguments: TokenStream, item: TokenStream) -> TokenStream {
    component(Kind::Connector, arguments, item)
}

/// Makes a component of world `mapping` from `fn map(event: Event<T>) -> Result<Mapped<U>, Detail>`, with
/// `settings: S` after the event when it has settings. One per crate.
///
/// * `name` – lower case, `-` between words; required.
/// * `events` – the event types it is meant for; without them it takes any.
/// * `description`, `version`, `settings_schema` – as for a connector.
#[proc_macro_attribute]
pub fn mapping(arguments: TokenStream, item: TokenStream) -> TokenStream {
    component(Kind::Mapping, arguments, item)
}

fn component(kind: Kind, arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as Arguments);
    let function = parse_macro_input!(item as ItemFn);
    let expanded = check_shape(kind, &function).and_then(|()| arguments.manifest(kind)).map(|manifest| {
        let name = &function.sig.ident;
        let export = match kind {
            Kind::Connector => quote! {
                impl ::tomada_sdk::bindings::connector::Guest for Component {
                    fn handle(
                        event: ::tomada_sdk::bindings::connector::Event,
                        payload: ::std::vec::Vec<u8>,
                        settings: ::std::string::String,
                    ) -> ::std::result::Result<::tomada_sdk::Receipt, ::tomada_sdk::Failure> {
                        ::tomada_sdk::guest::handle(event, payload, settings, #name)
                    }
                }
                ::tomada_sdk::bindings::connector::export_connector!(
                    Component with_types_in ::tomada_sdk::bindings::connector
                );
            },
            Kind::Mapping => quote! {
                impl ::tomada_sdk::bindings::mapping::Guest for Component {
                    fn map(
                        event: ::tomada_sdk::bindings::mapping::Event,
                        payload: ::std::vec::Vec<u8>,
                        settings: ::std::string::String,
                    ) -> ::std::result::Result<::tomada_sdk::bindings::mapping::Mapped, ::tomada_sdk::Detail> {
                        ::tomada_sdk::guest::map(event, payload, settings, #name)
                    }
                }
                ::tomada_sdk::bindings::mapping::export_mapping!(
                    Component with_types_in ::tomada_sdk::bindings::mapping
                );
            },
        };
        // The same types are asked for natively, where nothing is exported.
        let check = match kind {
            Kind::Connector => quote!(::tomada_sdk::guest::handle(event, payload, settings, #name).map(drop).ok()),
            Kind::Mapping => quote!(::tomada_sdk::guest::map(event, payload, settings, #name).map(drop).ok()),
        };
        let length = manifest.len();
        let bytes = Literal::byte_string(manifest.as_bytes());
        quote! {
            #function

            #[cfg(target_family = "wasm")]
            const _: () = {
                struct Component;
                #export

                #[used]
                #[unsafe(link_section = "tomada:manifest")]
                static MANIFEST: [u8; #length] = *#bytes;
            };

            #[cfg(not(target_family = "wasm"))]
            const _: fn(::tomada_sdk::bindings::connector::Event, ::std::vec::Vec<u8>, ::std::string::String)
                -> ::std::option::Option<()> = |event, payload, settings| #check;
        }
    });
    expanded.unwrap_or_else(|error| error.into_compile_error()).into()
}

/// What types cannot say, or would say in too many words.
fn check_shape(kind: Kind, function: &ItemFn) -> syn::Result<()> {
    let signature = &function.sig;
    let (fits, wanted) = match kind {
        Kind::Connector => (
            signature.inputs.len() == 2,
            "`fn handle(cx: &Context<Settings>, event: Event<T>) -> Result<Receipt, Failure>`",
        ),
        Kind::Mapping => (
            matches!(signature.inputs.len(), 1 | 2),
            "`fn map(event: Event<T>) -> Result<Mapped<U>, Detail>`, with `settings: S` after the event when it has any",
        ),
    };
    let plain = signature.asyncness.is_none() && signature.generics.params.is_empty() && signature.receiver().is_none();
    if fits && plain {
        Ok(())
    } else {
        Err(Error::new_spanned(signature, format!("write {wanted}: not async, not generic, not a method")))
    }
}
