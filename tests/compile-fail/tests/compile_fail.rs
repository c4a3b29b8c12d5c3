//! What the compiler says to a program that is wrong: each program of `programs/` does not compile, and the text beside it
//! (`TRYBUILD=overwrite` writes it anew) is what its author reads. Knows nothing of how the macros work.

#[test]
fn a_wrong_program_is_told_what_to_write_instead() {
    trybuild::TestCases::new().compile_fail("programs/*.rs");
}
