"""Files in and out: submit, plan, export."""
