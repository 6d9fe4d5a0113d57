"""PostgreSQL: connections, pools, transactions and errors.

The stores use it for a PostgreSQL DSN or a pool. A module `async_….py` is written by hand and its
blocking half is generated from it by `make sync`; the other modules serve both halves.
"""
