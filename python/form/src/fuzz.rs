//! The entry point of the fuzzer: values with arbitrary bytes. Reading them must not panic, and must not build more than there are bytes.

use crate::{Arguments, Build, Damaged, Leaf, arguments, value};

/// Counts what is built.
struct Count {
    values: usize,
    bytes: usize,
}

impl Count {
    fn made(&mut self, bytes: usize) -> Result<(), Damaged> {
        self.values += 1;
        self.bytes += bytes;
        Ok(())
    }
}

impl Build for Count {
    type Value = ();
    type Buffer = usize;
    type Error = Damaged;

    fn leaf(&mut self, leaf: Leaf<'_, usize>) -> Result<(), Damaged> {
        let bytes = match &leaf {
            Leaf::Text(text) => text.len(),
            Leaf::Bytes(bytes) | Leaf::ByteArray(bytes) | Leaf::Proxy(bytes) | Leaf::Method(bytes) => bytes.len(),
            Leaf::Array(form, bytes) => {
                assert_eq!(form.bytes(), Ok(bytes.len()), "an array has the bytes of its form");
                bytes.len()
            }
            Leaf::ArrayAside(form, _) => form.shape.len(),
            Leaf::Pickle(bytes, buffers) => bytes.len() + buffers.len(),
            _ => 0,
        };
        self.made(bytes)
    }

    fn tuple(&mut self, items: Vec<()>) -> Result<(), Damaged> {
        self.made(items.len())
    }

    fn list(&mut self, items: Vec<()>) -> Result<(), Damaged> {
        self.made(items.len())
    }

    fn dict(&mut self, items: Vec<((), ())>) -> Result<(), Damaged> {
        self.made(items.len())
    }
}

/// Reads a value, or the arguments of a call, after a count of buffers.
///
/// # Panics
/// If more is built than there are bytes.
pub fn values(input: &[u8]) {
    let Some((beside, bytes)) = input.split_first() else { return };
    let buffers = || vec![0; usize::from(beside % 8)];
    let mut count = Count { values: 0, bytes: 0 };
    let _ = value(&mut count, bytes, buffers());
    if let Ok(Arguments::Items(items)) = arguments(&mut count, bytes, buffers(), vec![()]) {
        assert!(items.len() <= bytes.len(), "each takes a byte");
    }
    assert!(count.values <= 2 * bytes.len(), "each takes a byte");
    assert!(count.bytes <= 2 * (bytes.len() + 8), "and no byte is read twice");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Form, tag, write_number, zigzag};

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let mut replayed = 0;
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            run(&std::fs::read(path).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "{} is empty", folder.display());
    }

    #[test]
    fn the_corpus_of_pythons_values_is_survived() {
        replay("values", values);
    }

    /// Records what it must build.
    struct Text;

    impl Build for Text {
        type Value = String;
        type Buffer = u8;
        type Error = Damaged;

        fn leaf(&mut self, leaf: Leaf<'_, u8>) -> Result<String, Damaged> {
            Ok(format!("{leaf:?}"))
        }
        fn tuple(&mut self, items: Vec<String>) -> Result<String, Damaged> {
            Ok(format!("({})", items.join(", ")))
        }
        fn list(&mut self, items: Vec<String>) -> Result<String, Damaged> {
            Ok(format!("[{}]", items.join(", ")))
        }
        fn dict(&mut self, items: Vec<(String, String)>) -> Result<String, Damaged> {
            Ok(format!("{{{}}}", items.iter().map(|(key, value)| format!("{key}: {value}")).collect::<String>()))
        }
    }

    #[test]
    fn a_value_is_what_its_bytes_say_and_none_if_they_end_early_or_go_on() {
        let mut bytes = vec![tag::TUPLE, 5, tag::NONE, tag::LIST, 2, tag::TRUE, tag::INT];
        write_number(&mut bytes, zigzag(-300));
        bytes.extend([tag::DICT, 1, tag::STR, 2, b'h', b'i', tag::ROW_ASIDE, b'd', tag::ARRAY]);
        Form { number: 2, item: 1, fortran: false, shape: vec![1, 2] }.write(&mut bytes);
        bytes.extend([7, 8, tag::FUTURE, 3, 4]);
        let form = "Form { number: 2, item: 1, fortran: false, shape: [1, 2] }";
        let expected = format!(
            "(None, [Truth(true), Int(-300)], {{Text(\"hi\"): RowAside(100, 9)}}, Array({form}, [7, 8]), Future {{ pe: 3, number: 4 }})"
        );
        assert_eq!(value(&mut Text, &bytes, vec![9]), Ok(expected));
        for len in 0..bytes.len() {
            assert_eq!(value(&mut Text, &bytes[..len], vec![9]), Err(Damaged), "{len}");
        }
        bytes.push(0);
        assert_eq!(value(&mut Text, &bytes, vec![9]), Err(Damaged));
        assert_eq!(value(&mut Text, &bytes, vec![]), Err(Damaged));
    }

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for number in [0, 1, -1, 63, 64, -65, i64::MAX, i64::MIN] {
            let mut bytes = vec![tag::INT];
            write_number(&mut bytes, zigzag(number));
            assert_eq!(value(&mut Text, &bytes, vec![]), Ok(format!("Int({number})")));
        }
    }

    #[test]
    fn no_bytes_make_more_than_they_are() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..state % 40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let byte = state.to_le_bytes()[6];
                    if byte & 0x60 == 0 { byte } else { byte % 20 }
                })
                .collect();
            state = state.wrapping_add(1);
            values(&bytes);
        }
    }
}
