"""Looking: status, list, show, verify."""
