"""Tissue and regional volumes, and how their distributions compare."""
