"""Changing requests and targets: retry, cancel, remove, rekey, pause, resume."""
