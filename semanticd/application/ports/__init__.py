"""The application's ports, each named for the need; adapters implement them."""
