"""The self-test of the user's machine, with one line and one entry of a JSON report per check.

Rule: a check is a small function that returns an `Outcome`; it never uses the user's caches and leaves no agent. The
checks run in a process of their own (`__main__`), which writes an event a line; the command line reads them, so that a
crash of the process is a line of the report too.
"""
