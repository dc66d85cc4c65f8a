"""Networks and layers only: no losses, no data, no files."""
