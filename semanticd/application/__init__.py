"""Use cases. Knows the domain and its own ports, and names no technology."""
