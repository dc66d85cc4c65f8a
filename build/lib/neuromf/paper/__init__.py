"""The draft of the paper: LaTeX from templates that hold no result, and every number read from the results."""
