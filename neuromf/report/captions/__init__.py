"""Captions of figures and tables, rendered from templates."""
