"""The path of a request through a worker: feeder, creator and settler, with maintenance beside them."""
