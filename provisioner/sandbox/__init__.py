"""A private PostgreSQL and a simulated Infisical: for the demo, the tests, and the tests of users."""
