"""Changing requests and targets: retry, cancel, pause, resume."""
