"""API keys: named ones from the settings, sealed ones from the rows."""
