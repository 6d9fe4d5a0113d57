"""What runs operations without knowing a database: queries and scripts, the query registry, group commit,
polling, retries and jobs. `operations`, `maintenance` and the database packages import it.
"""
