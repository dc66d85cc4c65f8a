"""Readers and preprocessing of scans: sources, participants, NIfTI, external tools, downloads."""
