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

/// A folder of a test's own, which is removed at its end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The path of a file with this content.
    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_secret_may_be_in_a_file() {
    let folder = Folder::new("secrets");
    for (name, content, key) in [
        ("plain", "key", "key"),
        ("line", "key\n", "key"),
        ("windows", "key\r\n", "key"),
        ("two-lines", "key\n\n", "key\n"),
        ("spaces", " key ", " key "),
        ("quoted", "\"key\\n\"\n", "key\n"),
    ] {
        let path = folder.file(name, content.as_bytes());
        let set =
            settings(&[("SDB_SECRET_KEY_FILE", &format!(" {path} ")), ("SDB_SECRET_KEY", " ")]);
        assert!(set.is_set("SDB_SECRET_KEY"));
        assert_eq!(set.readings("SDB_SECRET_KEY").unwrap()[0], key, "{name}");
        assert_eq!(set.required("SDB_SECRET_KEY").unwrap(), key.trim(), "{name}");
    }
    let largest = "k".repeat(64 * 1024);
    let path = folder.file("largest", largest.as_bytes());
    let set = settings(&[("SDB_AMQP_URI_FILE", &path)]);
    assert_eq!(set.required("SDB_AMQP_URI").unwrap(), largest);
}

#[test]
fn a_file_without_a_secret_is_refused_by_its_name_alone() {
    let folder = Folder::new("no-secrets");
    let itself = folder.0.to_str().unwrap().to_owned();
    for (path, says) in [
        (format!("{itself}/none"), "No such file"),
        (itself, "Is a directory"),
        (folder.file("nothing", b""), "it is empty"),
        (folder.file("blank", b" \n \n"), "it is empty"),
        (folder.file("bytes", b"hush\xff"), "it is not UTF-8"),
        (folder.file("large", &[b'h'; 64 * 1024 + 1]), "it is larger than 64 KiB"),
        ("/dev/zero".to_owned(), "it is larger than 64 KiB"),
    ] {
        let set = settings(&[("SDB_SECRET_KEY_FILE", &path)]);
        for error in [
            set.readings("SDB_SECRET_KEY").expect_err(&path),
            set.required("SDB_SECRET_KEY").expect_err(&path),
        ] {
            let error = crate::telemetry::chain(&error);
            assert!(
                error.starts_with(&format!("SDB_SECRET_KEY_FILE: {path} can't be used: {says}")),
                "{error}"
            );
            assert!(!error.contains("hush"), "{error}");
        }
    }
}

#[test]
fn a_secret_in_place_of_its_path_is_not_shown() {
    let set = settings(&[("SDB_AMQP_URI_FILE", "amqp://u:hush@host/v")]);
    let error = set.required("SDB_AMQP_URI").expect_err("no path").to_string();
    assert_eq!(
        error,
        "SDB_AMQP_URI_FILE must be the absolute path of a file that has SDB_AMQP_URI"
    );
}

#[test]
fn a_secret_has_a_value_or_a_file() {
    let both = settings(&[("SDB_SECRET_KEY", "hush"), ("SDB_SECRET_KEY_FILE", "/dev/null")]);
    for error in
        [both.readings("SDB_SECRET_KEY").map(drop), both.required("SDB_SECRET_KEY").map(drop)]
    {
        assert_eq!(
            error.expect_err("both").to_string(),
            "SDB_SECRET_KEY and SDB_SECRET_KEY_FILE are both set: set one of them"
        );
    }
    let blank = settings(&[("SDB_SECRET_KEY", "key"), ("SDB_SECRET_KEY_FILE", "")]);
    assert_eq!(blank.required("SDB_SECRET_KEY").expect("one"), "key");
}

#[test]
fn only_secrets_have_files() {
    let mixed = settings(&[
        ("SDB_SQLALCHEMY_DATABASE_URI_FILE", "/x"),
        ("SDB_SECRET_KEY_PREVIOUS_FILE", "/x"),
        ("SDB_LOG_FILE", "/x"),
    ]);
    assert_eq!(mixed.unused().unknown, ["SDB_LOG_FILE"]);
    assert!(mixed.unused().python.is_empty());
    assert_eq!(mixed.required("SDB_LOG").expect("the default"), "info");
}
