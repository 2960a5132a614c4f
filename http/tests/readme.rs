//! The README's table of problems says what the code does.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use oncekey::OperationId;
use oncekey_http::key::KeyProblem;
use oncekey_http::problem::{Problem, Situation};

/// As the table has them: status, name, and what stands under `Retry-After`.
fn rows() -> Vec<[String; 3]> {
    let readme = include_str!("../README.md");
    let (_, section) = readme.split_once("\n## What the client sees\n").expect("the section is there");
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        // The last row is a response, and no problem.
        .filter(|cells| !cells[3].starts_with("none"))
        .map(|cells| {
            let name = cells[3].split('`').nth(1).expect("a name stands in backticks");
            [cells[2].to_owned(), name.to_owned(), cells[4].to_owned()]
        })
        .collect()
}

fn situations() -> [Situation; 19] {
    [
        Situation::KeyMissing,
        Situation::KeyMalformed(KeyProblem::Several),
        Situation::NoPrincipal,
        Situation::BodyTooLarge { limit: Some(1) },
        Situation::BodyUnreadable,
        Situation::TooManyKeys { retry_after: ROOM },
        Situation::Mismatch,
        Situation::VaryMismatch { fields: String::new() },
        Situation::InProgress { retry_after: SOON },
        Situation::InDoubt { operation_id: OperationId::from_bytes([7; 16]) },
        Situation::Exhausted { attempts: 3 },
        Situation::Done,
        Situation::FailedBefore,
        Situation::LeaseLost,
        Situation::HandlerEnded,
        Situation::ShuttingDown,
        Situation::StoreUnavailable,
        Situation::StoreFailed,
        Situation::RecordUnusable,
    ]
}

const ROOM: Duration = Duration::from_millis(67_890);
const SOON: Duration = Duration::from_millis(12_345);

#[test]
fn every_situation_is_in_the_table_with_its_status_and_retry_after() {
    let done = situations().into_iter().map(|situation| {
        let problem = Problem::of(&situation);
        let after = match problem.retry_after {
            None => String::new(),
            Some(after) if after == SOON => "1 to 7 s, more the longer it runs".to_owned(),
            Some(after) if after == ROOM => "when there may be room".to_owned(),
            Some(after) => format!("{} s", after.as_secs()),
        };
        [problem.status.as_u16().to_string(), problem.slug.to_owned(), after]
    });
    assert_eq!(done.collect::<Vec<_>>(), rows());
}

/// The type of a problem leads to its heading, with its status below it.
#[test]
fn every_problem_has_a_heading_where_its_type_leads() {
    let documentation = include_str!("../src/problem.md");
    let headings = documentation.lines().filter_map(|line| line.strip_prefix("## "));
    let problems = situations().map(|situation| Problem::of(&situation));
    assert!(headings.eq(problems.iter().map(|problem| problem.slug)));
    for problem in problems {
        let below = format!("\n## {}\n\nStatus {}. ", problem.slug, problem.status.as_u16());
        assert!(documentation.contains(&below), "{below}");
    }
}

/// Each line of the tables of SECURITY.md names tests, and they are where it says.
#[test]
fn every_test_that_the_account_of_security_names_exists() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let page = std::fs::read_to_string(format!("{root}/SECURITY.md")).unwrap();
    let (_, attacks) = page.split_once("\n## What an attacker can do\n").expect("the section is there");
    let rows: Vec<_> = attacks.lines().filter(|line| line.starts_with('|')).collect();
    let mut lines = 0;
    for row in rows.iter().filter(|row| !row.starts_with("|---") && !row.starts_with("| tries to |")) {
        lines += 1;
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let (mut source, mut named) = (None, 0);
        for name in shown_by.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                source = Some(std::fs::read_to_string(format!("{root}/{name}")).unwrap());
            } else {
                named += 1;
                let source = source.as_ref().expect("a file goes before its tests");
                assert!(source.contains(&format!("fn {name}(")), "{name}, in: {row}");
            }
        }
        assert!(named > 0, "no test is named in: {row}");
    }
    assert!(lines > 20, "the tables were found");
}
