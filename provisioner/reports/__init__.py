"""Results as files for programs, spreadsheets, and people. This package does not use the database."""
