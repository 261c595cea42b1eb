"""One self-contained HTML page of a study: its tables, figures, settings and gaps."""
