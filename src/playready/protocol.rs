#![doc = include_str!("protocol.md")]
// The page tags statements with letters in brackets and writes byte ranges likewise.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]
