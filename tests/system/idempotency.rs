use crate::harness::tests;

tests!();
