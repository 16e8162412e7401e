//! Policy strings of the test server (section 10).
