"""One file per figure of the paper: a table in, a Figure out."""
