"""Telling others: notices as HTTP calls to one receiver. Knows nothing of the database."""
