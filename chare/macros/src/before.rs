//! The attributes for items that take effect before there are chares: `#[charm4rs::readonly]`, `#[charm4rs::init_process]` and
//! `#[charm4rs::init_pe]`. Each keeps its item unchanged, and submits a row of the registry for it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{ItemFn, ItemStatic, Result, ReturnType, StaticMutability};

use crate::parse::{error, last_name};

/// Expands to the static with its registration, or to the static with an error.
pub(crate) fn readonly(attribute: &TokenStream, item: TokenStream) -> TokenStream {
    or_error(parse_readonly(attribute, item.clone()), &item)
}

/// Expands to the function with its registration, or to the function with an error.
pub(crate) fn init(name: &str, attribute: &TokenStream, item: TokenStream) -> TokenStream {
    or_error(parse_init(name, attribute, item.clone()), &item)
}

fn or_error(made: Result<TokenStream>, item: &TokenStream) -> TokenStream {
    made.unwrap_or_else(|error| {
        let error = error.to_compile_error();
        quote!(#error #item)
    })
}

const STATIC: &str = "`#[charm4rs::readonly]` marks a `static NAME: Readonly<Type> = Readonly::new();`";

fn parse_readonly(attribute: &TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !attribute.is_empty() {
        return error(attribute, "`#[charm4rs::readonly]` takes no options");
    }
    let Ok(item) = syn::parse2::<ItemStatic>(item.clone()) else { return error(&item, STATIC) };
    if last_name(&item.ty).is_none_or(|name| name != "Readonly") {
        return error(&item.ty, STATIC);
    }
    if !matches!(item.mutability, StaticMutability::None) {
        return error(&item.mutability, "a `Readonly` needs no `mut`: `NAME.set(&job, value)` sets it");
    }
    let name = &item.ident;
    let text = name.to_string();
    Ok(quote! {
        #item

        const _: () = {
            ::charm4rs::__private::inventory::submit! {
                ::charm4rs::__private::ReadonlyRegistration {
                    name: ::core::concat!(::core::module_path!(), "::", #text),
                    value: &#name,
                }
            }
        };
    })
}

fn parse_init(attribute_name: &str, attribute: &TokenStream, item: TokenStream) -> Result<TokenStream> {
    let of_pe = attribute_name == "init_pe";
    let wanted = if of_pe { "`fn name()` or `fn name(pe: Pe)`" } else { "`fn name()`" };
    let wanted =
        format!("`#[charm4rs::{attribute_name}]` marks a function {wanted}, which is not `async` and has no result");
    if !attribute.is_empty() {
        return error(attribute, &format!("`#[charm4rs::{attribute_name}]` takes no options"));
    }
    let Ok(item) = syn::parse2::<ItemFn>(item.clone()) else { return error(&item, &wanted) };
    let sig = &item.sig;
    let plain = sig.asyncness.is_none() && sig.generics.params.is_empty() && sig.output == ReturnType::Default;
    if !plain || sig.receiver().is_some() || sig.inputs.len() > usize::from(of_pe) {
        return error(sig, &wanted);
    }
    let name = &sig.ident;
    let text = name.to_string();
    let run = match (of_pe, sig.inputs.len()) {
        (false, _) => quote!(Process(#name)),
        (true, 0) => quote!(Pe(|_| #name())),
        (true, _) => quote!(Pe(#name)),
    };
    Ok(quote! {
        #item

        const _: () = {
            ::charm4rs::__private::inventory::submit! {
                ::charm4rs::__private::InitRegistration {
                    name: ::core::concat!(::core::module_path!(), "::", #text),
                    run: ::charm4rs::__private::Init::#run,
                }
            }
        };
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_explained() {
        let check = |made: TokenStream, want: &str| assert!(made.to_string().contains(want), "{made}");
        check(
            readonly(
                &quote!(),
                quote!(
                    fn f() {}
                ),
            ),
            "marks a `static NAME",
        );
        check(
            readonly(
                &quote!(),
                quote!(
                    static A: u8 = 1;
                ),
            ),
            "marks a `static NAME",
        );
        check(
            readonly(
                &quote!(),
                quote!(
                    static mut A: Readonly<u8> = Readonly::new();
                ),
            ),
            "needs no `mut`",
        );
        check(
            readonly(
                &quote!(x),
                quote!(
                    static A: Readonly<u8> = Readonly::new();
                ),
            ),
            "takes no options",
        );
        check(
            init(
                "init_pe",
                &quote!(),
                quote!(
                    fn f(a: Pe, b: u8) {}
                ),
            ),
            "`fn name(pe: Pe)`",
        );
        check(
            init(
                "init_process",
                &quote!(),
                quote!(
                    fn f(a: Pe) {}
                ),
            ),
            "marks a function `fn name()`",
        );
        check(
            init(
                "init_process",
                &quote!(),
                quote!(
                    async fn f() {}
                ),
            ),
            "is not `async`",
        );
        check(
            init(
                "init_pe",
                &quote!(),
                quote!(
                    static A: u8 = 1;
                ),
            ),
            "marks a function",
        );
    }
}
