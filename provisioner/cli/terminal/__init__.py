"""Shared by all commands: the frame, the streams, filters, tables and progress bars."""
