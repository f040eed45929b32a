"""Queries to Infisical and OpenRouter by commands, all of them read-only."""
