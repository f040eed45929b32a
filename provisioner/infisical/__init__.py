"""The only rooms that speak to Infisical."""
