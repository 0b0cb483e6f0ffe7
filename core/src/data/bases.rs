/// Bases in upper case over `A C G T N`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bases {
    pub(super) letters: String,
    /// IUPAC codes that became `N`; an `N` in the file does not count.
    pub(super) ambiguous: u64,
}

/// Why letters are no bases.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `letter` at `position` (from 1) is no nucleotide.
    NotNucleotide { letter: u8, position: usize },
    /// None of the letters is a known base; there may be none at all.
    NoKnownBase { length: usize },
}

/// Brings letters into the tokenizer's alphabet, see the module's documentation.
pub(super) fn normalise(raw: &[u8]) -> Result<Bases, Fault> {
    let mut letters = String::with_capacity(raw.len());
    let mut ambiguous = 0;
    let mut known = false;
    for (index, &letter) in raw.iter().enumerate() {
        let base = match letter.to_ascii_uppercase() {
            b'A' => 'A',
            b'C' => 'C',
            b'G' => 'G',
            b'T' | b'U' => 'T',
            b'N' => 'N',
            b'R' | b'Y' | b'S' | b'W' | b'K' | b'M' | b'B' | b'D' | b'H' | b'V' => {
                ambiguous += 1;
                'N'
            }
            _ => {
                return Err(Fault::NotNucleotide {
                    letter,
                    position: index + 1,
                });
            }
        };
        known |= base != 'N';
        letters.push(base);
    }
    if known {
        Ok(Bases { letters, ambiguous })
    } else {
        Err(Fault::NoKnownBase { length: raw.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_brought_into_the_tokenizers_alphabet() {
        let bases = normalise(b"acgtUuNnRYSWKMBDHVr").unwrap();
        assert_eq!(bases.letters, "ACGTTTNNNNNNNNNNNNN");
        assert_eq!(bases.ambiguous, 11);
    }

    #[test]
    fn gaps_and_amino_acids_are_refused_with_their_position() {
        assert_eq!(
            normalise(b"AC-GT"),
            Err(Fault::NotNucleotide {
                letter: b'-',
                position: 3
            })
        );
        assert_eq!(
            normalise(b"MKVL"),
            Err(Fault::NotNucleotide {
                letter: b'L',
                position: 4
            })
        );
    }

    #[test]
    fn a_sequence_needs_one_known_base() {
        assert_eq!(normalise(b"NNRN"), Err(Fault::NoKnownBase { length: 4 }));
        assert_eq!(normalise(b""), Err(Fault::NoKnownBase { length: 0 }));
        assert_eq!(normalise(b"NNNA").unwrap().letters, "NNNA");
    }
}
