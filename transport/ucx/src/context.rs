//! The state that the workers of a process share: the open UCX context. Knows no worker.

use std::ffi::CString;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use charm4rs_ucx_sys as sys;
use sys::{Ucp, ucs_status_t};

/// A failure of UCX: the call, and its status.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) call: &'static str,
    pub(super) status: ucs_status_t,
}

pub(super) fn check(call: &'static str, status: ucs_status_t) -> Result<(), Failure> {
    if status == sys::UCS_OK { Ok(()) } else { Err(Failure { call, status }) }
}

/// What the workers of a process share: devices and registrations.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) ucp: &'static Ucp,
    pub(super) raw: sys::ucp_context_h,
}

// SAFETY: it is opened with `mt_workers_shared`, so UCX synchronizes its use.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens UCX. `settings` are UCX's own, without their prefix; they override those of the environment.
    pub(super) fn open(ucp: &'static Ucp, settings: &[(&str, &str)]) -> Result<Arc<Self>, Failure> {
        let mut config = null_mut();
        // SAFETY: no prefix, no file, and memory for the result.
        check("ucp_config_read", unsafe { (ucp.ucp_config_read)(null(), null(), &raw mut config) })?;
        let params = sys::ucp_params_t {
            field_mask: u64::from(sys::UCP_PARAM_FIELD_FEATURES | sys::UCP_PARAM_FIELD_MT_WORKERS_SHARED),
            features: u64::from(sys::UCP_FEATURE_AM | sys::UCP_FEATURE_WAKEUP),
            mt_workers_shared: 1,
            ..Default::default()
        };
        let mut raw = null_mut();
        let mut opened = Ok(());
        for (name, value) in settings {
            let [name, value] = [name, value].map(|text| CString::new(*text).expect("settings have no zeros"));
            // SAFETY: a configuration that was read, and two strings.
            let set = unsafe { (ucp.ucp_config_modify)(config, name.as_ptr(), value.as_ptr()) };
            opened = opened.and_then(|()| check("ucp_config_modify", set));
        }
        let opened = opened.and_then(|()| {
            let (major, minor) = super::library::OLDEST;
            // SAFETY: the parameters have the fields that their mask names; the version is that of the bindings.
            check("ucp_init", unsafe { (ucp.ucp_init_version)(major, minor, &raw const params, config, &raw mut raw) })
        });
        // SAFETY: it was read above, and is not used again.
        unsafe { (ucp.ucp_config_release)(config) };
        opened.map(|()| Arc::new(Self { ucp, raw }))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: every worker keeps the context alive, so there is none any more.
        unsafe { (self.ucp.ucp_cleanup)(self.raw) }
    }
}
