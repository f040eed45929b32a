"""What every command shares: the frame, the streams, the filters, tables and bars."""
