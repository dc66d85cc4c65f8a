"""The page that a study is sent as: one self-contained file, made by templates from what is in results/."""
