"""What an operator sees: logs, metrics, the status port."""
