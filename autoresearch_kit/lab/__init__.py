"""Folders and processes: where agents edit (desk) and where attempts are measured (bench)."""
