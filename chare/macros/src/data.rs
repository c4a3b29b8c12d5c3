//! `#[data]`: the derives of serde, from the serde of charm4rs.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error};

/// Expands to the item with the derives, or to the item with an error.
pub(crate) fn data(attribute: &TokenStream, item: TokenStream) -> TokenStream {
    let made = match syn::parse2::<DeriveInput>(item.clone()) {
        _ if !attribute.is_empty() => Err(Error::new_spanned(attribute, "`#[data]` takes no arguments")),
        Ok(made) => Ok(made),
        Err(error) => Err(Error::new(error.span(), "`#[data]` marks a struct or an enum whose values are sent")),
    };
    match made {
        Ok(made) => quote! {
            #[derive(::charm4rs::serde::Serialize, ::charm4rs::serde::Deserialize)]
            #[serde(crate = "::charm4rs::serde")]
            #made
        },
        Err(error) => {
            let error = error.to_compile_error();
            quote!(#error #item)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_derives_what_travels_and_anything_else_is_refused() {
        let check = |attribute: TokenStream, item: TokenStream, want: &str| {
            let text = data(&attribute, item).to_string();
            assert!(text.contains(want), "{text}");
        };
        let derives = "derive (:: charm4rs :: serde :: Serialize , :: charm4rs :: serde :: Deserialize)";
        check(
            quote!(),
            quote!(
                #[derive(Clone)]
                struct A<T>(T);
            ),
            derives,
        );
        check(
            quote!(),
            quote!(
                enum A {
                    B,
                }
            ),
            derives,
        );
        check(
            quote!(copy),
            quote!(
                struct A;
            ),
            "takes no arguments",
        );
        check(
            quote!(),
            quote!(
                fn f() {}
            ),
            "marks a struct or an enum",
        );
    }
}
