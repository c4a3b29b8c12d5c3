//! CRC-32C (Castagnoli): finds every change of up to 32 bits in a row, and all but one in four billion of the others.
//! It guards against accidents, not against people.

/// The polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "below 256, and `try_from` is not const")]
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// A sum in the making.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(!0)
    }

    /// Adds bytes.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let mut crc = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            // Eight bytes at a time, each looked up in the table of its distance from the end.
            let word = u64::from_le_bytes(*eight) ^ u64::from(crc);
            crc =
                word.to_le_bytes().into_iter().zip(TABLES.iter().rev()).fold(0, |crc, (b, t)| crc ^ t[usize::from(b)]);
        }
        for &byte in rest {
            crc = crc >> 8 ^ TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
        }
        Self(crc)
    }

    /// The sum.
    #[must_use]
    pub const fn sum(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_the_standard_come_out() {
        // RFC 3720, appendix B.4, and the check value of the catalogue.
        let up: Vec<u8> = (0..32).collect();
        for (bytes, sum) in
            [(&b"123456789"[..], 0xe306_9283), (&[0; 32], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&up, 0x46dd_794e)]
        {
            assert_eq!(Crc32c::new().with(bytes).sum(), sum);
        }
    }

    #[test]
    fn a_sum_in_parts_is_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..100).map(|n: u8| n.wrapping_mul(7)).collect();
        let whole = Crc32c::new().with(&bytes).sum();
        for cut in 0..bytes.len() {
            assert_eq!(Crc32c::new().with(&bytes[..cut]).with(&bytes[cut..]).sum(), whole);
        }
    }
}
