"""One short file for each kind of source: bytes in, frames of documents out, broken records to the quarantine."""
