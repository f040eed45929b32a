"""Commands for setting up: schema, rights, keys, settings, and the doctor."""
