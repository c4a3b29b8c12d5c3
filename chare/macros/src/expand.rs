//! The code for a parsed `#[chare]` or `#[charm4rs::main]`.
//!
//! Each entry method expands to a type that implements `Entry` (generic over the chare, so that it is as visible as the chare), a row of the registry,
//! a method of the proxies, and a receive if it has no body. This code is in an anonymous constant beside the `impl` block, so that only the trait
//! implementations are visible outside.

use proc_macro2::{Delimiter, Group, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use crate::instances::Instance;
use crate::parse::{Chare, Entry, Init, Kind, Main, last_name};

pub(crate) fn chare(chare: &Chare) -> TokenStream {
    let block = &chare.block;
    if chare.instances.is_empty() {
        let parts = parts(chare, &chare.text);
        return quote! {
            #block

            #[allow(clippy::all, clippy::pedantic, reason = "code of a macro")]
            const _: () = {
                #parts
            };
        };
    }
    let instances = chare.instances.iter().map(|Instance { aliases, name, check }| {
        let parts = parts(chare, name);
        quote! {
            #check
            const _: () = {
                #aliases
                #block

                #[allow(clippy::all, clippy::pedantic, reason = "code of a macro")]
                const _: () = {
                    #parts
                };
            };
        }
    });
    quote!(#(#instances)*)
}

/// The code beside the `impl` block of a chare type of this name.
fn parts(chare: &Chare, text: &str) -> TokenStream {
    let Chare { block, name, .. } = chare;
    let this = &block.self_ty;
    let calls = format_ident!("{name}Calls");
    let receives = format_ident!("{name}Receives");
    let entries = chare.entries.iter().map(|entry| entry_type(this, entry));
    let methods = chare.entries.iter().map(|entry| proxy_method(this, entry));
    let helpers = chare.helpers.iter().map(helper);
    let receive_methods =
        chare.entries.iter().filter(|entry| entry.kind == Kind::Receive).map(|entry| receive_method(this, entry));
    let chare_impl = chare_impl(chare, text, &calls, &receives);
    quote! {
            #chare_impl
            #(#entries)*

            /// The entry methods of a chare as methods of its proxies.
            pub struct #calls<CallKind: ::charm4rs::Kind>(::charm4rs::Target<#this, CallKind>);

            impl<CallKind: ::charm4rs::Kind> ::core::clone::Clone for #calls<CallKind> {
                fn clone(&self) -> Self {
                    *self
                }
            }
            impl<CallKind: ::charm4rs::Kind> ::core::marker::Copy for #calls<CallKind> {}

            impl<CallKind: ::charm4rs::Kind> ::charm4rs::Calls<#this, CallKind> for #calls<CallKind> {
                fn new(target: ::charm4rs::Target<#this, CallKind>) -> Self {
                    Self(target)
                }
                fn target(&self) -> &::charm4rs::Target<#this, CallKind> {
                    &self.0
                }
            }

            #[allow(dead_code, reason = "a program need not call all entry methods itself")]
            impl<CallKind: ::charm4rs::Kind> #calls<CallKind> {
                #(#methods)*
                #(#helpers)*
            }

            /// The bodiless entry methods of a chare as receives of its `async` ones.
            pub struct #receives(#[allow(dead_code, reason = "a chare may have no receives")] ::charm4rs::This<#this>);

            impl ::core::convert::From<::charm4rs::This<#this>> for #receives {
                fn from(this: ::charm4rs::This<#this>) -> Self {
                    Self(this)
                }
            }

            #[allow(dead_code, reason = "a chare may receive some messages in one way only")]
            impl #receives {
                #(#receive_methods)*
            }
    }
}

fn chare_impl(chare: &Chare, name: &str, calls: &syn::Ident, receives: &syn::Ident) -> TokenStream {
    let this = &chare.block.self_ty;
    let index = chare.index.as_ref().map_or_else(|| quote!(::charm4rs::Solo), |ty| quote!(#ty));
    let map = chare.map.as_ref().map_or_else(|| quote!(::charm4rs::DefaultMap), |ty| quote!(#ty));
    let solo_map = match chare.index {
        None => quote!(::core::option::Option::Some(::core::default::Default::default())),
        Some(_) => quote!(::core::option::Option::None),
    };
    let (init_type, construct) = constructor(this, &chare.init);
    let row_count = chare.entries.len();
    let statics = chare.entries.iter().map(|entry| {
        let row = row_name(entry);
        let entry = &entry.name;
        quote! {
            static #row: ::charm4rs::__private::MethodInfo = ::charm4rs::__private::MethodInfo::of::<#entry<#this>>();
        }
    });
    let row_names = chare.entries.iter().map(row_name);
    quote! {
        #(#statics)*
        static METHODS: [&::charm4rs::__private::MethodInfo; #row_count] = [#(&#row_names),*];
        static CHARE: ::charm4rs::__private::ChareInfo = ::charm4rs::__private::ChareInfo::of::<#this>(&METHODS);
        ::charm4rs::__private::inventory::submit! { ::charm4rs::__private::Registration(&CHARE) }

        impl ::charm4rs::Chare for #this {
            type Index = #index;
            type Map = #map;
            type Init = #init_type;
            type Calls<CallKind: ::charm4rs::Kind> = #calls<CallKind>;
            type Receives = #receives;
            const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", #name);

            fn construct(cx: &mut ::charm4rs::Cx<Self>, init: Self::Init) -> Self {
                let _ = &cx;
                #construct
            }
            fn info() -> &'static ::charm4rs::__private::ChareInfo {
                &CHARE
            }
            fn solo_map() -> ::core::option::Option<Self::Map> {
                #solo_map
            }
            fn naming() -> ::charm4rs::index::Naming<Self::Index> {
                ::charm4rs::naming!(#index)
            }
        }
    }
}

fn row_name(entry: &Entry) -> syn::Ident {
    format_ident!("ROW_{}", entry.name.to_string().to_uppercase())
}

/// The constructor's argument type, and the expression that calls it with `cx` and `init`.
fn constructor(this: &Type, init: &Init) -> (TokenStream, TokenStream) {
    let function = &init.name;
    let args = &init.args;
    let names: Vec<_> = (0..args.len()).map(|at| format_ident!("init_{at}")).collect();
    let cx = init.takes_cx.then(|| quote!(cx,));
    let ty = one_or_tuple(args);
    let unpack = match &names[..] {
        [] => quote!(let () = init;),
        [one] => quote!(let #one = init;),
        many => quote!(let (#(#many),*) = init;),
    };
    (ty, quote!(#unpack <#this>::#function(#cx #(#names),*)))
}

fn entry_type(this: &Type, entry: &Entry) -> TokenStream {
    let Entry { name, output, .. } = entry;
    let types = entry.args.iter().map(|(_, ty)| ty);
    let names = own_names(entry);
    let text = name.to_string();
    // The compiler reports an argument that cannot be sent at the list of arguments.
    let mut list = Group::new(Delimiter::Parenthesis, quote!(#(#types,)*));
    list.set_span(entry.parens);
    let arg_types: Vec<_> = entry.args.iter().map(|(_, ty)| quote!(#ty).to_string()).collect();
    let signature = format!("({}) -> {}", arg_types.join(", "), quote!(#output));
    let weight = weight_of(entry);
    let run = match entry.kind {
        Kind::Plain { takes_cx } => {
            let cx = takes_cx.then(|| quote!(cx,));
            quote! {
                ::charm4rs::Started::Done(this.enter(|chare, cx| {
                    let _ = &cx;
                    chare.#name(#cx #(#names),*)
                }))
            }
        }
        Kind::Async => quote! {
            ::charm4rs::Started::Suspended(::std::boxed::Box::pin(<#this>::#name(
                ::core::clone::Clone::clone(this), #(#names),*
            )))
        },
        Kind::Receive if let Some(key) = entry.key => {
            let (ty, types, rest) = around(entry, key);
            let key = &names[key];
            quote! {
                ::charm4rs::__private::keyed::post::<Self, #ty, (#(#types,)*)>(this, #key, (#(#rest,)*));
                ::charm4rs::Started::Done(())
            }
        }
        Kind::Receive => quote! {
            ::charm4rs::__private::post::<Self>(this, (#(#names,)*));
            ::charm4rs::Started::Done(())
        },
    };
    let row = row_name(entry);
    let post = entry.post.as_ref().map(|method| {
        let method = quote_spanned!(method.span()=> <#this>::#method);
        quote! {
            const POSTS: bool = true;

            fn post(this: &::charm4rs::This<#this>, which: usize, bytes: usize) -> ::core::option::Option<::charm4rs::RecvBuffer> {
                // The constant has an explicit type, so that the compiler reports a wrong signature at the method's name, with the expected type.
                const METHOD: fn(&mut #this, usize, usize) -> ::core::option::Option<::charm4rs::RecvBuffer> = #method;
                this.with(|chare| METHOD(chare, which, bytes))
            }
        }
    });
    quote! {
        #[allow(non_camel_case_types, reason = "it has the name of the entry method")]
        pub struct #name<C> {
            // Braces: a tuple struct would also be a value, which an argument of the same name could not shadow.
            chare: ::core::marker::PhantomData<C>,
        }

        impl ::charm4rs::Entry for #name<#this> {
            type Chare = #this;
            type Args = #list;
            type Output = #output;
            const NAME: &'static str = #text;
            const SIGNATURE: &'static str = #signature;
            #post
            #weight

            fn run(this: &::charm4rs::This<#this>, (#(#names,)*): Self::Args) -> ::charm4rs::Started<#output> {
                #run
            }
            fn info() -> &'static ::charm4rs::__private::MethodInfo {
                &#row
            }
        }
    }
}

/// The code that adds up the sizes of the arguments whose types may own much memory.
fn weight_of(entry: &Entry) -> Option<TokenStream> {
    let owns = |ty: &Type| match ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|segment| ["Vec", "String", "Box", "Payload"].iter().any(|name| segment.ident == name)),
        _ => false,
    };
    let all = own_names(entry);
    let heavy: Vec<_> = all.iter().zip(&entry.args).filter(|(_, (_, ty))| owns(ty)).map(|(name, _)| name).collect();
    (!heavy.is_empty()).then(|| {
        quote! {
            #[inline]
            #[allow(unused_variables, unused_imports)]
            fn weight((#(#all,)*): &Self::Args) -> usize {
                use ::charm4rs::__private::Light as _;
                #(::charm4rs::__private::Weigh(#heavy).bytes())+*
            }
        }
    })
}

/// Names for an entry method's arguments in code that has other names of the macro: the user's names could be equal to them.
pub(crate) fn own_names(entry: &Entry) -> Vec<syn::Ident> {
    (0..entry.args.len()).map(|at| format_ident!("argument_{at}")).collect()
}

fn proxy_method(this: &Type, entry: &Entry) -> TokenStream {
    let Entry { name, docs, .. } = entry;
    let (params, names): (Vec<_>, Vec<_>) = entry.args.iter().map(parameter).unzip();
    let sink = entry.args.split_last().map(|((_, result), first)| {
        let sink = format_ident!("{name}_sink");
        let doc = format!(
            "A sink for reductions: the result is the last argument of a call of [`{name}`](Self::{name}). This method takes the other arguments."
        );
        let (params, names): (Vec<_>, Vec<_>) = first.iter().map(parameter).unzip();
        quote! {
            #[doc = #doc]
            #[track_caller]
            pub fn #sink(&self, #(#params),*) -> ::charm4rs::reduce::Sink<#result> {
                ::charm4rs::__private::sink::<#name<#this>, CallKind, _, #result>(&self.0, (#(#names,)*))
            }
        }
    });
    quote! {
        #(#docs)*
        #[inline]
        pub fn #name(&self, #(#params),*) -> ::charm4rs::Call<#name<#this>, CallKind> {
            ::charm4rs::Call::new(&self.0, (#(#names,)*))
        }
        #sink
    }
}

/// A parameter of a proxy's method, and the expression for the entry method's argument. Parameters for text and payloads take every type that
/// converts to them. For other types, `Into` would prevent the compiler from inferring the type of the argument.
pub(crate) fn parameter((name, ty): &(syn::Ident, Type)) -> (TokenStream, TokenStream) {
    match last_name(ty) {
        Some(last) if last == "String" || last == "Payload" => {
            (quote!(#name: impl ::core::convert::Into<#ty>), quote!(::core::convert::Into::<#ty>::into(#name)))
        }
        _ => (quote!(#name: #ty), quote!(#name)),
    }
}

/// A method of a proxy for a chare's method that is not an entry method. It cannot be called, and the compiler prints the reason.
fn helper((name, count): &(syn::Ident, usize)) -> TokenStream {
    let types: Vec<_> = (0..*count).map(|at| format_ident!("A{at}")).collect();
    quote! {
        #[doc(hidden)]
        pub fn #name<#(#types),*>(&self, #(_: #types),*)
        where
            CallKind: ::charm4rs::__private::HasMethodsWithoutEntry,
        {
        }
    }
}

/// For an entry method with a key: the key's type, and the types and names of the other arguments.
fn around(entry: &Entry, key: usize) -> (&Type, Vec<&Type>, Vec<syn::Ident>) {
    let others = entry.args.iter().zip(own_names(entry)).enumerate().filter(|(at, _)| *at != key);
    let (types, names) = others.map(|(_, ((_, ty), name))| (ty, name)).unzip();
    (&entry.args[key].1, types, names)
}

/// One part as it is, or several parts as a tuple.
fn one_or_tuple<T: quote::ToTokens>(parts: &[T]) -> TokenStream {
    match parts {
        [one] => quote!(#one),
        many => quote!((#(#many),*)),
    }
}

fn receive_by_key(this: &Type, entry: &Entry, key: usize) -> TokenStream {
    let Entry { name, docs, .. } = entry;
    let (ty, types, names) = around(entry, key);
    let (output, result) = (one_or_tuple(&types), one_or_tuple(&names));
    let recv = format_ident!("recv_{name}");
    let key = &entry.args[key].0;
    let doc = format!("Waits for the next call with this `{key}`. Returns its other arguments.");
    // The compiler reports a type that cannot be a key at the type itself.
    let begin = quote_spanned!(ty.span()=> ::charm4rs::__private::keyed::receive::<#name<#this>, #ty, (#(#types,)*)>);
    quote! {
        #(#docs)*
        ///
        #[doc = #doc]
        pub fn #recv(&self, #key: #ty) -> impl ::core::future::Future<Output = #output> + '_ {
            let received = #begin(&self.0, #key);
            async move {
                let (#(#names,)*) = received.await;
                #result
            }
        }
    }
}

fn receive_method(this: &Type, entry: &Entry) -> TokenStream {
    if let Some(key) = entry.key {
        return receive_by_key(this, entry, key);
    }
    let Entry { name, docs, .. } = entry;
    let types: Vec<_> = entry.args.iter().map(|(_, ty)| ty).collect();
    let names = own_names(entry);
    let recv = format_ident!("recv_{name}");
    let next = format_ident!("next_{name}");
    let (output, result) = (one_or_tuple(&types), one_or_tuple(&names));
    quote! {
        #(#docs)*
        ///
        /// Waits for the first call that satisfies `wants`.
        pub fn #recv<'a>(
            &'a self,
            wants: impl ::core::ops::Fn(#(&#types),*) -> bool + 'a,
        ) -> impl ::core::future::Future<Output = #output> + 'a {
            let received = ::charm4rs::__private::receive::<#name<#this>>(&self.0, move |(#(#names,)*)| wants(#(#names),*));
            async move {
                let (#(#names,)*) = received.await;
                #result
            }
        }
        #(#docs)*
        ///
        /// Waits for the next call.
        pub fn #next(&self) -> impl ::core::future::Future<Output = #output> + '_ {
            self.#recv(|#(#names),*| { #(let _ = #names;)* true })
        }
    }
}

pub(crate) fn main(main: &Main) -> TokenStream {
    let mut function = main.function.clone();
    let attrs = std::mem::take(&mut function.attrs);
    let vis = std::mem::replace(&mut function.vis, syn::Visibility::Inherited);
    // If `main` does not take the arguments, their type is the most general one.
    let (args, ty) = match function.sig.inputs.len() {
        0 => (quote!(), quote!(::charm4rs::Args)),
        1 => (quote!(job), quote!(::charm4rs::Args)),
        _ => (quote!(job, args), quote!(_)),
    };
    quote! {
        #(#attrs)*
        #vis fn main() {
            #function
            ::charm4rs::__private::main(|job, args: #ty| {
                let _ = (&job, &args);
                main(#args)
            })
        }
    }
}
