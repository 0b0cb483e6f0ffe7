use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

fn write(directory: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn read(name: &str, content: &[u8]) -> Result<Dataset, DataError> {
    let directory = TempDir::new().unwrap();
    Dataset::read(&write(&directory, name, content))
}

/// The message of the error, which must name the file.
fn message(name: &str, content: &[u8]) -> String {
    let error = read(name, content).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(name), "{message}");
    message
}

fn rows(dataset: &Dataset) -> Vec<(&str, &str, &str)> {
    dataset
        .sequences
        .iter()
        .map(|sequence| (&*sequence.genome_id, &*sequence.fragment_id, &*sequence.bases))
        .collect()
}

#[test]
fn a_table_is_read_by_its_columns_names() {
    let table = "seq,length,fragment_id,genome_id\nacgu,4,f0,g1\nNNRT,4,f1,g2\n";
    let expected = [("g1", "f0", "ACGT"), ("g2", "f1", "NNNT")];
    let dataset = read("d.csv", table.as_bytes()).unwrap();
    assert_eq!(rows(&dataset), expected);
    assert_eq!(dataset.ambiguous_bases, 1);
    // sha256sum of the same bytes.
    assert_eq!(
        dataset.sha256,
        "877202f498b7f7e990bbaef358625b42caa1484aa7e0eaffc230c8eb77fb64ee"
    );
    for name in ["d.tsv", "d.tab", "d.txt", "d"] {
        assert_eq!(
            rows(&read(name, table.replace(',', "\t").as_bytes()).unwrap()),
            expected,
            "{name}"
        );
    }
    assert_eq!(
        rows(&read("d.csv.gz", &gzip(table.as_bytes())).unwrap()),
        expected
    );
    // The content says what it is, not the name.
    assert_eq!(rows(&read("d.csv", &gzip(table.as_bytes())).unwrap()), expected);
    assert_eq!(rows(&read("d.txt", table.as_bytes()).unwrap()), expected);
    // As Excel saves it: byte order mark, carriage returns.
    let windows = format!("\u{feff}{}", table.replace('\n', "\r\n"));
    assert_eq!(rows(&read("d.csv", windows.as_bytes()).unwrap()), expected);
}

#[test]
fn without_the_column_rows_are_numbered() {
    let dataset = read("d.csv", b"genome_id,seq\ng1,A\ng2,C\ng1,G\n").unwrap();
    assert_eq!(
        rows(&dataset),
        [("g1", "0", "A"), ("g2", "1", "C"), ("g1", "2", "G")]
    );
}

#[test]
fn fasta_is_read_plain_and_compressed() {
    let fasta = b">g1 Some species\nACG\nTac\n\n>g2\r\nGGN\r\nT\r\n";
    let expected = [("g1", "0", "ACGTAC"), ("g2", "1", "GGNT")];
    for name in ["d.fasta", "d.fna", "d.csv"] {
        assert_eq!(rows(&read(name, fasta).unwrap()), expected, "{name}");
    }
    assert_eq!(rows(&read("d.fa.gz", &gzip(fasta)).unwrap()), expected);
    // bgzip writes many gzip members.
    let members = [gzip(b">g1\nACGTAC\n"), gzip(b">g2\nGGNT\n")].concat();
    assert_eq!(rows(&read("d.fa.gz", &members).unwrap()), expected);
}

#[test]
fn missing_columns_are_named_beside_what_is_there() {
    assert_eq!(
        message("d.csv", b"genome,sequence\ng,A\n")
            .split_once("d.csv")
            .unwrap()
            .1,
        "` has no column `genome_id` and `seq`; found `genome`, `sequence`"
    );
    assert!(message("d.csv", b"genome_id\tseq\ng\tA\n").ends_with("found `genome_id\\tseq`"));
    assert!(message("d.tsv", b"genome_id\tsequence\ng\tA\n").contains("no column `seq`;"));
}

#[test]
fn a_file_without_sequences_is_an_error() {
    for (name, content) in [
        ("d.fasta", &b""[..]),
        ("d.csv", b""),
        ("d.csv", b"genome_id,seq\n"),
    ] {
        assert!(message(name, content).ends_with("holds no sequence"), "{name}");
    }
    assert!(message("d.fa.gz", &gzip(b"")).ends_with("holds no sequence"));
}

#[test]
fn a_record_of_ns_only_is_named() {
    let text = message("d.fasta", b">good\nACGT\n>bad one\nNNNN\nNN\n");
    assert!(
        text.contains("line 3, record `bad` `1`: no base is known (6 letters"),
        "{text}"
    );
    let text = message("d.csv", b"genome_id,fragment_id,seq\ng,f0,ACGT\ng,f1,nnn\n");
    assert!(
        text.contains("line 3, record `g` `f1`: no base is known (3 letters"),
        "{text}"
    );
    let text = message("d.csv", b"genome_id,seq\ng,\n");
    assert!(
        text.contains("line 2, record `g` `0`: no base is known (0 letters"),
        "{text}"
    );
}

#[test]
fn a_letter_that_is_no_nucleotide_is_named_with_its_place() {
    let text = message("d.fasta", b">p\nMKVK\nLA\n");
    assert!(
        text.contains("line 1, record `p` `0`: `L` at position 5 is no nucleotide"),
        "{text}"
    );
    let text = message("d.csv", "genome_id,seq\ng,ACé\n".as_bytes());
    assert!(text.contains("`\\xc3` at position 3"), "{text}");
}

#[test]
fn a_row_of_the_wrong_length_is_named_by_its_line() {
    let text = message("d.csv", b"genome_id,seq\ng,ACGT\ng,ACGT,surplus\n");
    assert!(
        text.ends_with("d.csv`, line 3: 3 fields where the header has 2"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error = Dataset::read(Path::new("/no/such/file.csv")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read `/no/such/file.csv`");
    assert!(error.source().unwrap().to_string().contains("No such file"));
    let error = Dataset::read(TempDir::new().unwrap().path()).unwrap_err();
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .starts_with("not a regular file")
    );
}

#[test]
fn an_unknown_format_names_what_there_is() {
    let text = message("d.bin", b"\x00\x01\x02,");
    assert!(text.contains("in no known format; expected FASTA"), "{text}");
    message("d.fastq", b"@r\nACGT\n+\nIIII\n");
}

#[test]
fn broken_files_are_errors() {
    let whole = gzip("genome_id,seq\ng,ACGTACGTAAATTT\n".repeat(100).as_bytes());
    message("d.csv.gz", &whole[..whole.len() / 2]);
    let whole = gzip(">g\nACGTACGTAAATTT\n".repeat(100).as_bytes());
    message("d.fa.gz", &whole[..whole.len() / 2]);
    message("d.csv", b"genome_id,seq\ng,\xff\xfe\n");
    assert!(message("d.csv", b"genome_id,seq\n,ACGT\n").contains("line 2: the genome's name is empty"));
    assert!(message("d.fa", b"> \nACGT\n").contains("line 1: the genome's name is empty"));
    message("d.fa", b">only a header\n");
    message("d.fa", b">a\n>b\nACGT\n");
}

/// 257 MiB of one letter in a megabyte of gzip, in either format.
#[test]
fn a_decompression_bomb_is_refused() {
    let directory = TempDir::new().unwrap();
    for (name, start) in [("d.fa.gz", ">g\n"), ("d.csv.gz", "genome_id,seq\ng,")] {
        let path = directory.path().join(name);
        let mut encoder = GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast());
        encoder.write_all(start.as_bytes()).unwrap();
        let letters = vec![b'A'; 1 << 20];
        for _ in 0..257 {
            encoder.write_all(&letters).unwrap();
        }
        encoder.finish().unwrap();
        let error = Dataset::read(&path).unwrap_err();
        assert!(error.to_string().ends_with(&format!("{name}`")), "{error}");
        let reason = error.source().unwrap().to_string();
        assert!(
            reason.contains("grows beyond 0.3 GB") && reason.contains("decompress it first"),
            "{reason}"
        );
    }
}

#[test]
fn a_subset_takes_the_first_of_each_genome_in_file_order() {
    let table = b"genome_id,fragment_id,seq\na,0,A\nb,0,A\na,1,A\na,2,A\nc,0,A\nb,1,A\n";
    let subset = read("d.csv", table).unwrap().subset_per_genome(2);
    assert_eq!(
        rows(&subset).iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(),
        [("a", "0"), ("b", "0"), ("a", "1"), ("c", "0"), ("b", "1")]
    );
}

#[test]
fn the_default_data_give_two_fragments_of_thirteen_species() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/eval.csv");
    let dataset = Dataset::read(&path).unwrap();
    assert_eq!(dataset.sequences.len(), 104);
    assert!(
        dataset
            .sequences
            .iter()
            .all(|sequence| sequence.bases.len() == 5000)
    );
    let subset = dataset.subset_per_genome(2);
    assert_eq!(subset.sequences.len(), 26);
    assert_eq!(subset.sequences[1].fragment_id, "f01");
}
