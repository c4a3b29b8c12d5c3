//! chare
