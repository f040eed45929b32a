"""The journey of a request: feeder, creator, settler, and the keeper who looks after leases."""
