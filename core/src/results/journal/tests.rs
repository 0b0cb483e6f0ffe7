use std::fs;

use super::*;
use crate::results::test_records::performance_record;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn append(directory: &Path, records: &[Record]) {
    let mut journal = Journal::open(directory).unwrap();
    for record in records {
        journal.append(record).unwrap();
    }
}

#[test]
fn no_journal_is_no_records() {
    let contents = read_journal(directory().path()).unwrap();
    assert!(contents.records.is_empty() && contents.warnings.is_empty());
}

#[test]
fn latest_record_of_a_cell_wins_at_its_first_place() {
    let directory = directory();
    let first = performance_record("standard", 0);
    let other = performance_record("8bit", 0);
    let mut again = first.clone();
    again.reason = "second try".to_owned();
    append(directory.path(), &[first, other.clone()]);
    append(directory.path(), std::slice::from_ref(&again));
    assert_eq!(
        read_journal(directory.path()).unwrap().records,
        [again.clone(), other.clone()]
    );
    let mut open = Journal::open(directory.path()).unwrap();
    assert_eq!(open.records(), [again.clone(), other.clone()]);
    let third = performance_record("8bit", 1);
    open.append(&third).unwrap();
    assert_eq!(open.records(), [again, other, third]);
}

#[test]
fn half_written_last_line_is_a_warning_and_the_next_record_follows_cleanly() {
    let directory = directory();
    let path = directory.path().join(JOURNAL_FILE);
    let (first, second) = (performance_record("standard", 0), performance_record("8bit", 0));
    append(directory.path(), &[first.clone(), second.clone()]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();

    let contents = read_journal(directory.path()).unwrap();
    assert_eq!(contents.records, std::slice::from_ref(&first));
    assert!(
        contents.warnings[0].contains("cells.jsonl, line 2"),
        "{:?}",
        contents.warnings
    );

    append(directory.path(), std::slice::from_ref(&second));
    let contents = read_journal(directory.path()).unwrap();
    assert_eq!(contents.records, [first, second]);
    assert!(contents.warnings.is_empty());
}

#[test]
fn whole_last_line_without_its_end_is_kept() {
    let directory = directory();
    let path = directory.path().join(JOURNAL_FILE);
    let (first, second) = (performance_record("standard", 0), performance_record("8bit", 0));
    append(directory.path(), std::slice::from_ref(&first));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, bytes.trim_ascii_end()).unwrap();
    append(directory.path(), std::slice::from_ref(&second));
    assert_eq!(read_journal(directory.path()).unwrap().records, [first, second]);
}

#[test]
fn corrupt_line_in_the_middle_is_an_error_with_its_place() {
    let directory = directory();
    append(
        directory.path(),
        &[performance_record("standard", 0), performance_record("8bit", 0)],
    );
    let path = directory.path().join(JOURNAL_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"cell\"", "\"cel", 1)).unwrap();
    let error = read_journal(directory.path()).unwrap_err().to_string();
    assert!(error.contains("cells.jsonl, line 1: no record"), "{error}");
    let before = fs::read(&path).unwrap();
    let error = Journal::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("cells.jsonl, line 1: no record"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn other_format_is_an_error_that_names_both() {
    let directory = directory();
    let mut record = performance_record("standard", 0);
    record.schema = "qbench.record/9".to_owned();
    append(directory.path(), &[record]);
    let error = read_journal(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("`qbench.record/9`, expected `qbench.record/1`"),
        "{error}"
    );
}

#[test]
fn number_that_json_cannot_hold_is_refused_and_nothing_is_written() {
    let directory = directory();
    let mut record = performance_record("standard", 0);
    record.performance.as_mut().unwrap().load_seconds = f64::NAN;
    let error = Journal::open(directory.path())
        .unwrap()
        .append(&record)
        .unwrap_err();
    assert!(matches!(error, ResultsError::Unwritable { .. }), "{error}");
    assert_eq!(fs::read(directory.path().join(JOURNAL_FILE)).unwrap(), b"");
}

#[test]
fn journal_cut_anywhere_keeps_its_whole_lines() {
    let line = |record: &Record| serde_json::to_vec(record).unwrap();
    let first = performance_record("standard", 0);
    let mut bytes = line(&first);
    bytes.push(b'\n');
    let whole = bytes.len();
    bytes.extend(line(&performance_record("8bit", 0)));
    for cut in whole..bytes.len() {
        let parsed = parse(Path::new(JOURNAL_FILE), &bytes[..cut], |_| {}).unwrap();
        assert_eq!(
            parsed.latest.records,
            std::slice::from_ref(&first),
            "cut at {cut}"
        );
        assert_eq!(parsed.incomplete.is_some(), cut > whole, "cut at {cut}");
    }
}

proptest::proptest! {
    #[test]
    fn damaged_bytes_are_an_error_or_a_record_but_no_panic(place in 0..4096_usize, byte: u8) {
        let mut bytes = serde_json::to_vec(&performance_record("standard", 0)).unwrap();
        bytes.push(b'\n');
        let place = place % bytes.len();
        bytes[place] = byte;
        if let Err(error) = parse(Path::new(JOURNAL_FILE), &bytes[..], |_| {}) {
            proptest::prop_assert!(error.to_string().starts_with(JOURNAL_FILE));
        }
    }
}
