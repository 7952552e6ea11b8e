"""
The profile store and queues in a database, by SQLAlchemy Core: SQLite, MySQL, PostgreSQL.

The only folder that imports SQLAlchemy and Alembic.  SQL errors end here.
"""
