"""The pacing, simulated: no network, no database, virtual time. Run it as `python -m tests.benchmarks.pacing`."""
