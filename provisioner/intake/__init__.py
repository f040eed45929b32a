"""Bulk files: read them, check every line, and keep what passed until it is loaded.

Knows nothing of the database. No message here shows what may be a key.
"""
