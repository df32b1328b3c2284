//! Each target over its corpus, and over inputs that chance makes of it. `FUZZ_SEED` and `FUZZ_TIMES` (how many times as many) begin elsewhere
//! and go on for longer.

#![allow(clippy::unwrap_used)]

use fuzz::{TARGETS, Target};
use power_cut::dice::Dice;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

const BYTES_MAX: usize = 16 * 1024;

fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn corpus(target: Target) -> Vec<Vec<u8>> {
    let folder = target.corpus();
    let listed = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn drive(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(*target);
    corpus.iter().for_each(|input| (target.body)(input));
    let seed = from_environment("FUZZ_SEED", 1);
    let mut dice = Dice::new(seed);
    for round in 0..target.rounds * from_environment("FUZZ_TIMES", 1) {
        let input = changed(&mut dice, &corpus);
        if let Err(why) = catch_unwind(AssertUnwindSafe(|| (target.body)(&input))) {
            let place = target.corpus().join(format!("found-{seed}-{round}"));
            fs::write(&place, &input).unwrap();
            eprintln!("round {round} of seed {seed}: the input is now {}", place.display());
            std::panic::resume_unwind(why);
        }
    }
}

/// An input of the corpus with a few things done to it.
fn changed(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[dice.index(corpus.len())].clone();
    for _ in 0..=dice.below(6) {
        let at = dice.index(input.len() + 1);
        let end = (at + dice.index(16)).min(input.len());
        match dice.below(7) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b'[', b'\\', b'\n', b'9', b'-']),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, (0..dice.below(8)).map(|_| dice.word().to_le_bytes()[0]).collect::<Vec<_>>())),
            4 => {
                let part = input[at..end].to_vec();
                drop(input.splice(at..at, part));
            }
            5 => {
                let other = &corpus[dice.index(corpus.len())];
                input.truncate(at);
                input.extend(&other[dice.index(other.len() + 1)..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(BYTES_MAX);
    input
}

#[test]
fn any_bytes_on_a_serial_line_are_taken() {
    drive("serial");
}

#[test]
fn any_submission_is_taken_or_refused() {
    drive("submit");
}

#[test]
fn any_status_record_is_read_or_passed_over() {
    drive("status");
}

#[test]
#[cfg(feature = "config")]
fn any_config_is_read_or_its_mistakes_are_told() {
    drive("config");
}

#[test]
fn what_comes_out_of_a_damaged_store_went_in() {
    drive("store");
}
