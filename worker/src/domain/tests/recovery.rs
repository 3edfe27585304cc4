//! Recovery and reports, case by case.
