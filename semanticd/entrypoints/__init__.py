"""Entry points of the processes: the composition root, the daemon and the command line."""
