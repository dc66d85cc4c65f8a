"""Figures of a study, numbered in `catalogue`.

Every module has `draw`, which makes a figure from data, and `render`, which reads files, draws, and writes out.pdf,
out.png and out.json. `config` holds settings and further values for the side file out.json. `qc` is the table of scans
(tsv) of `neuromf.data.preprocessing`.
"""
