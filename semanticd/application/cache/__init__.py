"""The two tiers of the KV cache and the agents that own it."""
