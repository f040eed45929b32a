"""Commands that keep running: the worker, the demo and the simulator; and the probe of a worker."""
