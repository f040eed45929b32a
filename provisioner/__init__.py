"""Create OpenRouter connections in many Infisical projects, from rows in a PostgreSQL table."""

__version__ = "0.2.0"
