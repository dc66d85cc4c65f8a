"""Metrics of single images: similarity, spectra, reconstruction, outliers."""
