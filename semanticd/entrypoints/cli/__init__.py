"""The command line, one file per command group. Never loads the server stack to say what it is."""
