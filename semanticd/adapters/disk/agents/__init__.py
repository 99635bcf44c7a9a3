"""The agents' records on disk, and agent export files."""
