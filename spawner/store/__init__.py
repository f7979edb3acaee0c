"""The store: SQLAlchemy Core repositories over SQLite or PostgreSQL.

For: `spawner.wiring` opens an engine and hands each service the repository it needs.
Promises: one transaction per method; no query in a loop; the same behaviour on both databases.
Must not know: HTTP, GitLab, any runtime, who calls it.
"""
