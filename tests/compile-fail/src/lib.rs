//! Empty: the tests of this package are the programs of `programs/`, which do not compile. It is a separate package because the compiler builds all
//! its dependencies again, in a separate folder.
