"""What operators see: logs, metrics, the status port."""
