"""The dashboard: imports textual and semanticd.control, and nothing else of ours."""
