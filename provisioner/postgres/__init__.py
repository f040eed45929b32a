"""The only modules that speak SQL."""
