//! Traits of chares: chares that implement `#[chare] trait Shape {…}` by `#[chare] impl Shape for Circle {…}` have its `#[entry]` methods.
//!
//! A trait expands to the trait without the attributes of charm4rs, for each entry method a type that implements `Entry` for every implementor, and
//! the methods of proxies. An implementation expands to the implementation and the rows of the registry for its chare.

use proc_macro2::{Delimiter, Group, TokenStream};
use quote::{format_ident, quote};
use syn::{ImplItem, ItemImpl, ItemTrait, Meta, Result, TraitItem, Type, parse_quote};

use crate::expand::{own_names, parameter};
use crate::parse::{Entry, Kind, error, parse_entry, take};

pub(crate) fn chare_trait(attribute: &TokenStream, mut item: ItemTrait) -> Result<TokenStream> {
    if !attribute.is_empty() {
        return error(
            attribute,
            "`#[chare]` on a trait takes no options: the chares that implement the trait have an index and a map",
        );
    }
    if !item.generics.params.is_empty() {
        return error(
            &item.generics.params,
            "a trait of chares cannot be generic: both sides of a call must know its types",
        );
    }
    let self_type: Type = parse_quote!(Self);
    let mut entries = Vec::new();
    for item in &mut item.items {
        let TraitItem::Fn(method) = item else { continue };
        match take(&mut method.attrs, "entry") {
            None => continue,
            Some(Meta::Path(_)) => {}
            Some(other) => return error(other, "an entry method of a trait takes no options"),
        }
        let entry = parse_entry(&method.sig, &method.attrs, true, &self_type)?;
        if entry.kind != (Kind::Plain { takes_cx: false }) {
            // `Cx<Self>` and `This<Self>` exist only for chares, and `dyn Trait` is not a chare.
            method
                .sig
                .generics
                .make_where_clause()
                .predicates
                .push(parse_quote!(Self: ::core::marker::Sized + ::charm4rs::Chare));
            method.attrs.push(parse_quote!(#[allow(async_fn_in_trait, reason = "only the runtime calls it")]));
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return error(
            &item.ident,
            "a trait of chares has entry methods: mark each method that proxies need with `#[entry]`",
        );
    }
    Ok(expanded(&item, &entries))
}

fn expanded(item: &ItemTrait, entries: &[Entry]) -> TokenStream {
    let (name, vis) = (&item.ident, &item.vis);
    let text = name.to_string();
    let [any_calls, calls, table] = ["AnyCalls", "Calls", "Table"].map(|suffix| format_ident!("{name}{suffix}"));
    let count = entries.len();
    let names: Vec<_> = entries.iter().map(|entry| &entry.name).collect();
    let types: Vec<_> = entries.iter().map(args_type).collect();
    let outputs: Vec<_> = entries.iter().map(|entry| &entry.output).collect();
    let entry_types = entries.iter().enumerate().map(|(at, entry)| entry_type(item, at, entry));
    let any_methods = entries.iter().map(|entry| {
        let (name, docs) = (&entry.name, &entry.docs);
        let (types, output) = (args_type(entry), &entry.output);
        let (params, args): (Vec<_>, Vec<_>) = entry.args.iter().map(parameter).unzip();
        quote! {
            #(#docs)*
            pub fn #name(&self, #(#params),*) -> ::charm4rs::AnyCall<#types, #output> {
                self.0.call(self.0.table().#name, (#(#args,)*))
            }
        }
    });
    let methods = entries.iter().map(|entry| {
        let (name, docs) = (&entry.name, &entry.docs);
        let (params, args): (Vec<_>, Vec<_>) = entry.args.iter().map(parameter).unzip();
        quote! {
            #(#docs)*
            pub fn #name(&self, #(#params),*) -> ::charm4rs::Call<#name<Implementor>, CallKind> {
                ::charm4rs::Call::new(&self.0, (#(#args,)*))
            }
        }
    });
    let of_all = quote!(Implementor: ::charm4rs::Implements<dyn #name>, CallKind: ::charm4rs::Kind);
    let bounds = quote!(Implementor: ::charm4rs::Implements<dyn #name> + #name, CallKind: ::charm4rs::Kind);
    quote! {
        #item

        #[allow(clippy::all, clippy::pedantic, private_bounds, private_interfaces, reason = "code of a macro")]
        const _: () = {
            #(#entry_types)*

            /// The functions that call the entry methods.
            #vis struct #table {
                #(#names: ::charm4rs::__private::AnyMethod<#types, #outputs>,)*
            }

            /// The entry methods of a trait as methods of proxies of any chare that implements it.
            #vis struct #any_calls(::charm4rs::AnyTarget<dyn #name>);

            impl ::core::convert::From<::charm4rs::AnyTarget<dyn #name>> for #any_calls {
                fn from(target: ::charm4rs::AnyTarget<dyn #name>) -> Self {
                    Self(target)
                }
            }
            impl ::core::ops::Deref for #any_calls {
                type Target = ::charm4rs::AnyTarget<dyn #name>;
                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
            #[allow(dead_code, reason = "a program need not call all entry methods itself")]
            impl #any_calls {
                #(#any_methods)*
            }

            /// The entry methods of a trait as methods of proxies of one chare that implements it.
            #vis struct #calls<Implementor: ::charm4rs::Implements<dyn #name>, CallKind: ::charm4rs::Kind>(
                ::charm4rs::Target<Implementor, CallKind>,
            );

            impl<#of_all> ::core::convert::From<::charm4rs::Target<Implementor, CallKind>> for #calls<Implementor, CallKind> {
                fn from(target: ::charm4rs::Target<Implementor, CallKind>) -> Self {
                    Self(target)
                }
            }
            #[allow(dead_code, reason = "a program need not call all entry methods itself")]
            impl<#bounds> #calls<Implementor, CallKind> {
                #(#methods)*
            }

            impl ::charm4rs::ChareTrait for dyn #name {
                const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", #text);
                type AnyCalls = #any_calls;
                type Calls<#of_all> = #calls<Implementor, CallKind>;
                type Table = #table;
                type Rows = [::charm4rs::__private::MethodInfo; #count];
            }

            impl<Implementor: ::charm4rs::Implements<dyn #name> + #name> ::charm4rs::__private::RowsOf<Implementor> for dyn #name {
                const ROWS: Self::Rows = [#(::charm4rs::__private::MethodInfo::of::<#names<Implementor>>()),*];
                const TABLE: #table = #table {
                    #(#names: ::charm4rs::__private::AnyMethod::of::<#names<Implementor>>(),)*
                };
            }
        };
    }
}

/// A tuple of the arguments' types. The compiler reports a type that cannot be sent at the list of arguments.
fn args_type(entry: &Entry) -> Group {
    let types = entry.args.iter().map(|(_, ty)| ty);
    let mut list = Group::new(Delimiter::Parenthesis, quote!(#(#types,)*));
    list.set_span(entry.parens);
    list
}

fn entry_type(item: &ItemTrait, at: usize, entry: &Entry) -> TokenStream {
    let (of, vis) = (&item.ident, &item.vis);
    let Entry { name, output, .. } = entry;
    let (text, names, types) = (name.to_string(), own_names(entry), args_type(entry));
    let arg_types: Vec<_> = entry.args.iter().map(|(_, ty)| quote!(#ty).to_string()).collect();
    let signature = format!("({}) -> {}", arg_types.join(", "), quote!(#output));
    let run = match entry.kind {
        Kind::Async => quote! {
            ::charm4rs::Started::Suspended(::std::boxed::Box::pin(<Implementor as #of>::#name(
                ::core::clone::Clone::clone(this), #(#names),*
            )))
        },
        kind => {
            let cx = (kind == Kind::Plain { takes_cx: true }).then(|| quote!(cx,));
            quote! {
                ::charm4rs::Started::Done(this.enter(|chare, cx| {
                    let _ = &cx;
                    <Implementor as #of>::#name(chare, #cx #(#names),*)
                }))
            }
        }
    };
    quote! {
        #[allow(non_camel_case_types, reason = "it has the name of the entry method")]
        #vis struct #name<Implementor> {
            chare: ::core::marker::PhantomData<Implementor>,
        }

        impl<Implementor: ::charm4rs::Implements<dyn #of> + #of> ::charm4rs::Entry for #name<Implementor> {
            type Chare = Implementor;
            type Args = #types;
            type Output = #output;
            const NAME: &'static str = #text;
            const SIGNATURE: &'static str = #signature;

            fn run(this: &::charm4rs::This<Implementor>, (#(#names,)*): Self::Args) -> ::charm4rs::Started<#output> {
                #run
            }
            fn info() -> &'static ::charm4rs::__private::MethodInfo {
                &<Implementor as ::charm4rs::Implements<dyn #of>>::rows()[#at]
            }
        }
    }
}

/// `impl Trait for Chare`.
pub(crate) fn implementation(attribute: &TokenStream, mut block: ItemImpl) -> Result<TokenStream> {
    if !attribute.is_empty() {
        return error(
            attribute,
            "`#[chare]` on an implementation of a trait takes no options: they belong to the chare's own `impl` block",
        );
    }
    if !block.generics.params.is_empty() {
        return error(
            &block.generics.params,
            "a trait of chares is implemented for one instance of a generic chare: `impl Trait for Chare<f64>`",
        );
    }
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            take(&mut method.attrs, "entry"); // an implementation may repeat the attribute
        }
    }
    let Some((path, _)) = &block.trait_ else { return error(&block.self_ty, "this block implements no trait") };
    let this = &block.self_ty;
    let rows = quote!(<dyn #path as ::charm4rs::__private::RowsOf<#this>>);
    let of = quote!(<dyn #path as ::charm4rs::ChareTrait>);
    Ok(quote! {
        #block

        #[allow(clippy::all, clippy::pedantic, reason = "code of a macro")]
        const _: () = {
            static ROWS: #of::Rows = #rows::ROWS;
            static TABLE: #of::Table = #rows::TABLE;
            static IMPLEMENTATION: ::charm4rs::__private::Implementation =
                ::charm4rs::__private::Implementation::of::<#this, dyn #path>(&ROWS, &TABLE);
            ::charm4rs::__private::inventory::submit! { ::charm4rs::__private::ImplementationRegistration(&IMPLEMENTATION) }

            impl ::charm4rs::Implements<dyn #path> for #this {
                fn rows() -> &'static [::charm4rs::__private::MethodInfo] {
                    &ROWS
                }
                fn implementation() -> &'static ::charm4rs::__private::Implementation {
                    &IMPLEMENTATION
                }
                fn table() -> &'static #of::Table {
                    &TABLE
                }
            }
        };
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_in_a_trait_is_explained() {
        let check = |attribute: TokenStream, item: ItemTrait, want: &str| {
            let said = chare_trait(&attribute, item).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(want), "{said}");
        };
        check(
            quote!(index = u8),
            parse_quote!(
                trait A {
                    #[entry]
                    fn f(&self);
                }
            ),
            "takes no options",
        );
        check(
            quote!(),
            parse_quote!(
                trait A<T> {
                    #[entry]
                    fn f(&self, t: T);
                }
            ),
            "cannot be generic",
        );
        check(
            quote!(),
            parse_quote!(
                trait A {
                    fn f(&self);
                }
            ),
            "has entry methods",
        );
        check(
            quote!(),
            parse_quote!(
                trait A {
                    #[entry(post = g)]
                    fn f(&self);
                }
            ),
            "takes no options",
        );
        check(
            quote!(),
            parse_quote!(
                trait A {
                    #[entry]
                    fn f(&self, x: &str);
                }
            ),
            "String",
        );
        check(
            quote!(),
            parse_quote!(
                trait A {
                    #[entry]
                    fn clone(&self);
                }
            ),
            "cannot be named `clone`",
        );
        let said = implementation(
            &quote!(),
            parse_quote!(
                impl<T> A for B<T> {}
            ),
        )
        .err()
        .map(|error| error.to_string());
        assert!(said.unwrap_or_default().contains("impl Trait for Chare<f64>"));
    }
}
