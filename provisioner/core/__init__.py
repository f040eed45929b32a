"""Values and decisions. This package does no I/O and reads neither the clock nor random numbers."""
