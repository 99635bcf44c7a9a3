"""The warm tier: block files, their index, and what keeps the two together."""
