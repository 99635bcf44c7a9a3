"""What the application needs from outside, each named for the need; adapters provide it."""
