"""Bulk files: read them, check every line, and keep valid lines until they are loaded.

This package does not use the database. No message shows anything that may be a key.
"""
