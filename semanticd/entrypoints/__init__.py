"""Where processes begin: the composition root, the daemon and the command line."""
