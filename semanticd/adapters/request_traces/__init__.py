"""Traces of requests: files of JSON lines that `semanticd bench replay` plays. docs/formats/trace.md is the format."""
