"""Commands that show things: status, list, show, verify."""
