"""The Direct Agent API: `/v1/agents`."""
