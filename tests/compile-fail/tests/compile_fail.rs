//! The compiler's errors for wrong programs: each program of `programs/` does not compile, and the text beside it (`TRYBUILD=overwrite` writes it
//! again) is the error that its author reads. Knows nothing of how the macros work.

#[test]
fn errors_of_wrong_programs_say_what_to_write_instead() {
    trybuild::TestCases::new().compile_fail("programs/*.rs");
}
