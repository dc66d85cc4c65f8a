"""What users read: report page, paper, tables, captions, releases."""
