"""Model files: aliases, sources, download with progress, fingerprint."""
