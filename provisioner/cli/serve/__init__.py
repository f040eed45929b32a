"""What keeps running: the worker, the demo, the simulator, and the probe of a worker."""
