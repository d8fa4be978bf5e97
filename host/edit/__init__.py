"""Edits many pictures with one workflow, without a browser: jobs in, results, a table and a contact sheet out."""
