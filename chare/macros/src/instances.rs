//! Generic chares: `#[chare(instances(f32, f64))] impl<T: Real> Block<T> {…}` defines a chare type for each listed instance, as if the block were
//! written for each. Type aliases around each copy of the block define the parameters, so that the compiler's errors refer to the user's own code.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{GenericArgument, GenericParam, Generics, Result, Token, Type};

use crate::parse::error;

/// One instance of a generic chare.
pub(crate) struct Instance {
    /// The aliases that define the parameters.
    pub(crate) aliases: TokenStream,
    /// The chare's name, with its arguments.
    pub(crate) name: String,
    /// The code that checks the bounds of the block.
    pub(crate) check: TokenStream,
}

/// The instances of a block, from the tokens in `instances(…)`.
pub(crate) fn instances(
    generics: &Generics,
    self_type: &Type,
    listed: Option<&(Span, TokenStream)>,
) -> Result<Vec<Instance>> {
    let Some((at, tokens)) = listed else {
        let params: Vec<_> = generics.params.iter().map(|param| name_of(param).to_string()).collect();
        let example = if let [_] = params[..] { "f32, f64".to_owned() } else { "(f32, u32), (f64, u64)".to_owned() };
        return error(
            &generics.params,
            &format!(
                "entry methods are numbered when the program is linked, so a generic chare lists the arguments for `{}`: `#[chare(…, instances({example}))]`",
                params.join("`, `")
            ),
        );
    };
    if let Some(lifetime) = generics.lifetimes().next() {
        return error(lifetime, "a chare cannot borrow: it outlives the code that creates it");
    }
    let count = generics.params.len();
    if count == 0 {
        return Err(syn::Error::new(*at, "`instances(…)` belongs to a generic chare: `impl<T> Block<T> {…}`"));
    }
    let all = |input: ParseStream<'_>| {
        let mut all = Vec::new();
        while !input.is_empty() {
            all.push(instance(input, count)?);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(all)
    };
    let parsed: Vec<Vec<GenericArgument>> = all.parse2(tokens.clone())?;
    if parsed.is_empty() {
        return Err(syn::Error::new(*at, "a generic chare has at least one instance: `instances(f32, f64)`"));
    }
    Ok(parsed.iter().map(|arguments| made(generics, self_type, arguments)).collect())
}

fn instance(input: ParseStream<'_>, count: usize) -> Result<Vec<GenericArgument>> {
    if count == 1 {
        return Ok(vec![input.parse()?]);
    }
    let span = input.span();
    let content;
    let wanted = format!("an instance is a list of {count} arguments in parentheses, such as `(f32, u32)`");
    if !input.peek(syn::token::Paren) {
        return Err(syn::Error::new(span, wanted));
    }
    syn::parenthesized!(content in input);
    let arguments = Punctuated::<GenericArgument, Token![,]>::parse_terminated(&content)?;
    if arguments.len() == count { Ok(arguments.into_iter().collect()) } else { Err(syn::Error::new(span, wanted)) }
}

fn made(generics: &Generics, self_type: &Type, arguments: &[GenericArgument]) -> Instance {
    let alias = |(param, argument): (&GenericParam, &GenericArgument)| match param {
        GenericParam::Const(param) => {
            let (name, ty) = (&param.ident, &param.ty);
            quote!(#[allow(dead_code)] const #name: #ty = #argument;)
        }
        param => {
            let name = name_of(param);
            quote!(#[allow(dead_code)] type #name = #argument;)
        }
    };
    let aliases = generics.params.iter().zip(arguments).map(alias).collect();
    let named: Vec<_> = generics.params.iter().map(|param| name_of(param).to_string()).zip(arguments).collect();
    let name = last_part(&compact(&substituted(self_type.to_token_stream(), &named)));
    let (params, bounds) = (&generics.params, &generics.where_clause);
    let span = arguments.first().map_or_else(Span::call_site, Spanned::span);
    let check = quote_spanned!(span=> listed::<#(#arguments),*>(););
    let listed = format_ident!("listed");
    let check = quote! {
        const _: fn() = || {
            #[allow(dead_code, clippy::extra_unused_type_parameters)]
            fn #listed<#params>() #bounds {}
            #check
        };
    };
    Instance { aliases, name, check }
}

fn name_of(param: &GenericParam) -> &syn::Ident {
    match param {
        GenericParam::Type(param) => &param.ident,
        GenericParam::Const(param) => &param.ident,
        GenericParam::Lifetime(param) => &param.lifetime.ident,
    }
}

/// The tokens with the parameters replaced by the arguments.
fn substituted(tokens: TokenStream, named: &[(String, &GenericArgument)]) -> TokenStream {
    let of = |token: TokenTree| match token {
        TokenTree::Ident(ident) => match named.iter().find(|(name, _)| ident == name) {
            Some((_, argument)) => argument.to_token_stream(),
            None => ident.to_token_stream(),
        },
        TokenTree::Group(group) => {
            proc_macro2::Group::new(group.delimiter(), substituted(group.stream(), named)).to_token_stream()
        }
        other => other.to_token_stream(),
    };
    tokens.into_iter().flat_map(of).collect()
}

/// The usual spelling, without superfluous spaces: `Block<f64, (u8, u8)>`.
pub(crate) fn compact(tokens: &TokenStream) -> String {
    let text = tokens.to_string();
    let chars: Vec<char> = text.chars().collect();
    let glued = |c: char| "<>:()[];&".contains(c);
    let kept = chars.iter().enumerate().filter(|&(at, &c)| {
        let beside = [at.checked_sub(1).map(|at| chars[at]), chars.get(at + 1).copied()];
        let [before, behind] = beside;
        c != ' '
            || !(before.is_none_or(|c| glued(c) && c != ';')
                || behind.is_none_or(|c| glued(c) || c == ',') && before != Some(','))
    });
    kept.map(|(_, c)| *c).collect()
}

/// A type's name without the path before it.
pub(crate) fn last_part(name: &str) -> String {
    let head = name.find('<').unwrap_or(name.len());
    let start = name[..head].rfind("::").map_or(0, |at| at + 2);
    name[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_named_as_they_are_written() {
        let check = |tokens: TokenStream, want: &str| assert_eq!(last_part(&compact(&tokens)), want);
        check(quote!(Block), "Block");
        check(quote!(a::b::Block<f64>), "Block<f64>");
        check(quote!(Block<Vec<a::B>, (u8, u16), 4, [u8; 3]>), "Block<Vec<a::B>, (u8, u16), 4, [u8; 3]>");
    }
}
