"""The only modules that speak to Infisical."""
