"""Rows: the truth about files, jobs and captions. SQLite and PostgreSQL through SQLAlchemy; no torch, no queue."""
