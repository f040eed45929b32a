"""The embedded database: a PostgreSQL that the first command starts, and that stops after the last one."""
