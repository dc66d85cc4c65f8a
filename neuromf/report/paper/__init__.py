"""The draft of the paper: LaTeX from templates, with every number looked up in the results."""
