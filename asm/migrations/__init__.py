"""Bringing a database up to date: `migrate`, `rollback` and `pending_migrations`, applied by yoyo.

The stores and the command import it.
"""
