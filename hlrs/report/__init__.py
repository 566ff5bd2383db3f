"""The report: statistics over seeds, words, tables, figures and the HTML page."""
