//! UCX's protocol interface (UCP), as much of it as the transport uses. Knows nothing of the transport.
//!
//! `generate` makes `bindings.rs` from the headers of version 1.13. The file is committed, so a build needs neither UCX nor its
//! headers, nor libclang. The library is opened at run time, so one program runs with any version from
//! 1.13 on that a machine has, and without any. (UCX's structures grow only at their ends, and have a mask of the valid fields.)
//!
//! Two things are inline in the headers. `ucp_init` is `ucp_init_version` with the version of the headers.
//! And an operation returns a pointer that is one of three things: see [`Answer`].

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

/// The immediate result of a non-blocking operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is complete; no callback follows.
    Done,
    /// It is pending: the request, which must be freed; its callback follows.
    Pending(ucs_status_ptr_t),
    /// It failed; no callback follows.
    Failed(ucs_status_t),
}

impl Answer {
    /// Decodes a pointer as `UCS_PTR_IS_ERR` and related macros do: errors are the highest addresses.
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
