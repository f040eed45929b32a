"""API keys: named ones from the settings, and sealed ones from the rows."""
