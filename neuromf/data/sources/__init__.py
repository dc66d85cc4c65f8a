"""Sources of scans: any folder, BIDS, a table, image-mask pairs."""
