"""Before the work: the schema, rights, keys, settings, and the doctor."""
