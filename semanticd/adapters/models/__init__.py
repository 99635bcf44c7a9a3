"""Where model files come from: aliases, sources, download with progress, fingerprint."""
