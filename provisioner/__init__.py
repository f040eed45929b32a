"""Give many Infisical projects their OpenRouter connection, from rows in a PostgreSQL table."""

__version__ = "0.2.0"
