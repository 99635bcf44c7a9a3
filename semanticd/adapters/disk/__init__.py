"""The warm tier on disk: files written once and named by content, and an index that can be rebuilt."""
