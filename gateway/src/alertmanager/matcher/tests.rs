use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What is written, and the same as it is printed.
#[test]
fn matchers_are_read_as_alertmanager_reads_them() {
    for (text, printed) in [
        (r#"team="storage""#, r#"team="storage""#),
        ("team=storage", r#"team="storage""#),
        (" team = storage ", r#"team="storage""#),
        (r#"team != "storage""#, r#"team!="storage""#),
        (r#"cluster=~"otc-(?P<region>.+)""#, r#"cluster=~"otc-(?P<region>.+)""#),
        ("cluster!~otc-.*", r#"cluster!~"otc-.*""#),
        (r#"a="1",b!="2" , c=~"3","#, r#"a="1", b!="2", c=~"3""#),
        (r#"{a="1",b="2"}"#, r#"a="1", b="2""#),
        (r#"{a="{}"}"#, r#"a="{}""#),
        ("team=", r#"team="""#),
        (r#"team="""#, r#"team="""#),
        (r#"a="one, two",b="}""#, r#"a="one, two", b="}""#),
        (r#"a="say \"it\"""#, r#"a="say \"it\"""#),
        (r#"a=say \"it\""#, r#"a="say \"it\"""#),
        (r#"a="one\ntwo\\""#, r#"a="one\ntwo\\""#),
        // Backslashes of an expression need not be doubled, and may be.
        (r#"a=~"\d+\.\w""#, r#"a=~"\\d+\\.\\w""#),
        (r#"a=~"\\d+\\.\\w""#, r#"a=~"\\d+\\.\\w""#),
        (r"a=~\d", r#"a=~"\\d""#),
        (r#""service name"="x""#, r#""service name"="x""#),
        (r#"service.name="x""#, r#"service.name="x""#),
        ("größe=groß", r#"größe="groß""#),
        ("a=b=c", r#"a="b=c""#),
    ] {
        let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let shown: Vec<String> = parsed.iter().map(Matcher::to_string).collect();
        assert_eq!(shown.join(", "), printed, "{text}");
    }
}

#[test]
fn what_is_no_matcher_says_what_to_write() {
    for (text, says) in [
        ("", "a matcher is empty"),
        ("{}", "a matcher is empty"),
        (" , ", "the name of a label is missing"),
        ("team", "`=`, `!=`, `=~` or `!~` is missing after `team`"),
        ("team storage", "is missing after `team`"),
        ("team=='storage'", "write `=` for equal"),
        ("team!storage", "is missing after `team`"),
        ("team='storage'", "write it in double quotes"),
        ("team=`storage`", "write it in double quotes"),
        (r#"team="storage"#, "a double quote is not closed"),
        (r#"team=sto"rage"#, "is to be in double quotes"),
        (r#"team="a" b="c""#, "`b` is where a comma or the end is to be"),
        (r#"="a""#, "the name of a label is missing"),
        (r#"{team="a""#, "`{` without its `}`"),
        (r#"team=~"(""#, "the expression `(` can't be used: unclosed group"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

/// A matcher, and whether it matches an alert of the team `storage` in the cluster `otc-eu`.
#[test]
fn conditions_are_about_whole_values_and_absent_labels_are_empty() {
    let alert = labels(&[("team", "storage"), ("cluster", "otc-eu")]);
    for (text, matched) in [
        (r#"team="storage""#, true),
        (r#"team="stor""#, false),
        (r#"team!="storage""#, false),
        (r#"team!="stor""#, true),
        (r#"team=~"stor""#, false),
        (r#"team=~"stor.*|other""#, true),
        (r#"team!~"stor""#, true),
        (r#"team!~"stor.*""#, false),
        (r#"zone="""#, true),
        (r#"zone!="""#, false),
        (r#"zone!="a""#, true),
        (r#"zone=~".*""#, true),
        (r#"zone=~".+""#, false),
        (r#"zone!~".+""#, true),
    ] {
        let parsed = parse(text).expect(text);
        assert_eq!(parsed[0].matches(&alert, &mut Groups::new()), matched, "{text}");
    }
}

#[test]
fn named_groups_have_what_they_matched() {
    let alert = labels(&[("cluster", "otc-eu")]);
    let parsed = parse(r#"cluster=~"(?P<cloud>otc)-(?P<region>.+?)(-(?P<zone>.))?""#);
    let parsed = parsed.expect("it is a matcher");
    assert_eq!(parsed[0].groups().collect::<Vec<_>>(), ["cloud", "region", "zone"]);
    let mut groups = Groups::new();
    assert!(parsed[0].matches(&alert, &mut groups));
    assert_eq!(groups, Groups::from([("cloud", "otc"), ("region", "eu")]));
    // Of what must not match, there is nothing to use.
    let parsed = parse(r#"cluster!~"(?P<cloud>x)""#).expect("it is a matcher");
    assert_eq!(parsed[0].groups().count(), 0);
}

/// Any matcher, by its operator.
fn matchers() -> impl Strategy<Value = Matcher> {
    let texts = ("[a-z\"{} ü\\\\.]{1,8}", "[a-z0-9\"\\\\\n,{}= ü']{0,12}");
    (texts, 0..4).prop_map(|((label, value), operator)| {
        let expression = || {
            let written = regex::escape(&value);
            let compiled = expression::compile(&written).expect("it is escaped");
            Expression { written, compiled }
        };
        let comparison = match operator {
            0 => Comparison::Equal(value),
            1 => Comparison::NotEqual(value),
            2 => Comparison::Matching(expression()),
            _ => Comparison::NotMatching(expression()),
        };
        Matcher { label, comparison }
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(matchers in prop::collection::vec(matchers(), 1..4)) {
        let shown: Vec<String> = matchers.iter().map(Matcher::to_string).collect();
        prop_assert_eq!(parse(&shown.join(",")), Ok(matchers.clone()));
        prop_assert_eq!(parse(&format!("{{ {} }}", shown.join(" , "))), Ok(matchers));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-b=~!\"\\\\,{} n']{0,16}|.{0,24}") {
        parse(&text).ok();
    }
}
