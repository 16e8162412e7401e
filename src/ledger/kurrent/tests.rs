//! Over real connections, to the endpoint of this program.
