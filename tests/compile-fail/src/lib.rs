//! Nothing: what is tested here are the programs of `programs/`, which do not compile. A package of its own, for the compiler builds once more, in
//! a folder of its own, whatever their package needs.
