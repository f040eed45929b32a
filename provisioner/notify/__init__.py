"""Notices as HTTP calls to one receiver. This package does not use the database."""
