"""Tables: one file per table, and `style.py`, which all of them share."""
