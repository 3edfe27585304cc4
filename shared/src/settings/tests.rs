use super::*;

fn settings(variables: &[(&str, &str)]) -> Settings {
    Settings::new(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
}

#[test]
fn defaults_stand_in_for_what_is_not_set() {
    let none = settings(&[("SDB_BATCH", " ")]);
    assert_eq!(none.number("SDB_BATCH", 1..=10_000).expect("default"), 512);
    assert!(!none.is_set("SDB_BATCH"));
    let error = none.required("SDB_SECRET_KEY").expect_err("has no default");
    assert!(error.to_string().starts_with("SDB_SECRET_KEY is not set: "));
}

#[test]
fn wrong_values_are_refused_with_what_to_write() {
    let wrong =
        settings(&[("SDB_BATCH", "many"), ("SDB_PREFETCH", "0"), ("SDB_V1_CONFLICT", "yes")]);
    for (error, says) in [
        (
            wrong.number("SDB_BATCH", 1..=9).expect_err("text"),
            "SDB_BATCH is `many`, but must be a whole number from 1 to 9",
        ),
        (
            wrong.number("SDB_PREFETCH", 1..=9).expect_err("range"),
            "SDB_PREFETCH is `0`, but must be a whole number from 1 to 9",
        ),
        (
            wrong.switch("SDB_V1_CONFLICT").expect_err("word"),
            "SDB_V1_CONFLICT is `yes`, but must be `true` or `false`",
        ),
    ] {
        assert_eq!(error.to_string(), says);
    }
}

#[test]
fn foreign_names_are_told_apart() {
    let mixed = settings(&[
        ("SDB_GITHUB_CLIENT_ID", "x"),
        ("SDB_SQLALCHEMY_DATABASE_URI", "x"),
        ("SDB_SQLALCHEMY_ECHO", "x"),
        ("SDB_BACTH", "5"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(
        mixed.unused(),
        UnusedVariables {
            python: vec!["SDB_GITHUB_CLIENT_ID".into(), "SDB_SQLALCHEMY_ECHO".into()],
            unknown: vec!["SDB_BACTH".into()],
        }
    );
}

#[test]
fn secrets_are_not_shown() {
    assert_eq!(format!("{:?}", Secret::from("hush".to_owned())), "…");
}
