//! The two lists: what they show, in which order, and how they are sent.

mod lists;

use harness::tests_of;

tests_of!(lists);
