"""Generative atlas of human brain function: from coordinate tables to conditional activation maps."""
