"""Thin command lines, one per rule of the workflow: read arguments, one library call, write."""
