"""Scans: sources, participants tables, NIfTI, preprocessing, external tools, augmentation, downloads."""
