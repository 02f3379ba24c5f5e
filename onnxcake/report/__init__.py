"""Show and keep results: report.json, tables, pictures."""
