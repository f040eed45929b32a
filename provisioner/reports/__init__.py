"""Results as files: for programs, for spreadsheets, and for people. Knows nothing of the database."""
