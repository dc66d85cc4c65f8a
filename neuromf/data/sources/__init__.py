"""Sources of scans: any folder, a BIDS folder, a table."""
