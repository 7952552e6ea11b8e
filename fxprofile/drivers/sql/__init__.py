"""
The profile store and queues in a database, by SQLAlchemy Core: SQLite, MySQL, PostgreSQL.

SQL errors end here.  Libraries: alembic, psycopg, sqlalchemy.
"""
