"""Migrations: `migrate`, `rollback`, `pending_migrations` and `status`, with yoyo. The stores and the command
use them.
"""

from asm.migrations.files import migrations_folder as migrations_folder
