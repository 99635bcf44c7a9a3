"""One model over several machines: the daemon's half, which calls, and the ranks' half, which computes."""
