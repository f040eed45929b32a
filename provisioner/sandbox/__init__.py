"""A private PostgreSQL and a simulated Infisical, for the demo, our tests, and users' tests."""
