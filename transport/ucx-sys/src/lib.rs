//! UCX's interface of protocols (UCP), as much of it as the transport uses. Knows nothing of the transport.
//!
//! `bindings.rs` is made by `generate`, from the headers of version 1.13, and committed: to build this takes neither UCX nor its
//! headers, nor libclang. The library is opened at run time, so that one program runs with whatever version a machine has, from
//! 1.13 on, and without any. (Its structures only grow at their ends, and say in a mask which fields they have.)
//!
//! Of what is inline in the headers there are two things to know. `ucp_init` is `ucp_init_version` with the version that the headers
//! have. And an operation answers with a pointer that is one of three things: see [`Answer`].

#[allow(
    missing_debug_implementations,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "it is generated, and the names are C's"
)]
mod bindings;

pub use bindings::*;

impl std::fmt::Debug for Ucp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ucp")
    }
}

impl std::fmt::Debug for ucp_request_param_t {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ucp_request_param_t")
    }
}

/// What an operation that does not block says at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done; no callback follows.
    Done,
    /// It goes on: the request, to be freed; its callback follows.
    Pending(ucs_status_ptr_t),
    /// It failed; no callback follows.
    Failed(ucs_status_t),
}

impl Answer {
    /// What `UCS_PTR_IS_ERR` and its like say of a pointer: errors are the last addresses there are.
    #[must_use]
    #[inline]
    pub fn of(pointer: ucs_status_ptr_t) -> Self {
        let number = pointer.addr().cast_signed();
        match ucs_status_t::try_from(number) {
            Ok(UCS_OK) => Self::Done,
            Ok(status) if (UCS_ERR_LAST..0).contains(&status) => Self::Failed(status),
            _ => Self::Pending(pointer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_done_pending_or_an_error() {
        let of = |number: isize| Answer::of(std::ptr::without_provenance_mut(number.cast_unsigned()));
        assert_eq!(of(0), Answer::Done);
        assert_eq!(of(-100), Answer::Failed(-100));
        assert_eq!(of(isize::from(UCS_ERR_UNREACHABLE)), Answer::Failed(UCS_ERR_UNREACHABLE));
        for number in [-101, -4096, 4096, isize::MAX, isize::MIN] {
            assert!(matches!(of(number), Answer::Pending(_)), "{number}");
        }
    }
}
