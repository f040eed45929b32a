"""Commands that change requests and targets: retry, cancel, remove, rekey, pause, resume."""
