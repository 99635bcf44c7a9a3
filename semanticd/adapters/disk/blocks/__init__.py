"""The warm tier: block files, their index, and the code that keeps both consistent."""
