use super::*;

/// What is a text is kept; of what is not, the kind and what PyYAML 6.0 with psycopg2 stores.
#[test]
fn plain_scalars_are_what_pyyaml_makes_of_them() {
    for written in [
        "EU-DE",
        "a:b",
        "1a",
        "y",
        "n",
        "yEs",
        "nUll",
        "08",
        "0o10",
        "0xZ",
        "0b",
        "0x",
        "_1",
        "+",
        ".",
        "12:60",
        "0:30",
        "1e3",
        "1.0e3",
        "12e03",
        "1.5.2",
        "-.5",
        "+.nan",
        "=",
        "2026-5-1",
        "2026-05-01 10:00",
        "2026-05-01x",
        "192.168.0.1",
        // Stored as they are written.
        "0",
        "12",
        "-12",
        "20260501",
        "123456789012345678901234567890123456789012345",
        "1.5",
        "-0.5",
        "0.0",
        "true",
        "false",
        "2026-05-01",
    ] {
        assert_eq!(resolve(written, true), Scalar::Text(written.to_owned()), "{written}");
    }
    for written in NULL {
        assert_eq!(resolve(written, true), Scalar::Null, "{written}");
    }
    assert_eq!(resolve("<<", true), Scalar::Merge);
    for (written, kind, stored) in [
        ("yes", "a boolean", Some("true")),
        ("On", "a boolean", Some("true")),
        ("TRUE", "a boolean", Some("true")),
        ("NO", "a boolean", Some("false")),
        ("off", "a boolean", Some("false")),
        ("False", "a boolean", Some("false")),
        ("-0", "a number", Some("0")),
        ("+12", "a number", Some("12")),
        ("00", "a number", Some("0")),
        ("012", "a number", Some("10")),
        ("0_7", "a number", Some("7")),
        ("-0x1F", "a number", Some("-31")),
        ("0b101", "a number", Some("5")),
        ("1_000", "a number", Some("1000")),
        ("12:30", "a number", Some("750")),
        ("1:2:3", "a number", Some("3723")),
        ("1.50", "a number", Some("1.5")),
        ("1.", "a number", Some("1.0")),
        (".5", "a number", Some("0.5")),
        ("+1.5", "a number", Some("1.5")),
        ("1_0.5", "a number", Some("10.5")),
        ("1.5e-3", "a number", Some("0.0015")),
        ("1.0e+3", "a number", Some("1000.0")),
        ("190:20:30.15", "a number", None),
        ("0.00001", "a number", None),
        ("-0.0", "a number", None),
        ("-.inf", "a number", None),
        (".NaN", "a number", None),
        ("2026-13-01", "a date", None),
        ("2026-05-01 10:00:00", "a time", None),
        ("2026-5-1T1:02:03.5 +2", "a time", None),
    ] {
        let expected =
            Scalar::Other { written: written.to_owned(), kind, stored: stored.map(str::to_owned) };
        assert_eq!(resolve(written, true), expected);
        assert_eq!(resolve(written, false), Scalar::Text(written.to_owned()));
    }
}
