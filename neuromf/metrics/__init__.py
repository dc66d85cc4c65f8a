"""Metrics of sets of volumes, and statistics over them."""
