"""What we know and decide: no I/O, no clock, no randomness."""
